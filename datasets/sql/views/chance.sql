-- chance(key, seed): a number in [0, 1) that depends on key and seed alone: not on the rows around it, the number
-- of threads or the version of DuckDB. The 53 upper bits of half an md5.
-- normal(key, seed): the same with the standard normal distribution (Box and Muller), rounded to 9 digits so that
-- machines whose logarithms differ in the last bit agree.
create macro chance(key, seed) as
    (md5_number_lower(concat_ws(':', key, seed)) >> 11)::double / 9007199254740992.0;

create macro normal(key, seed) as round(
    sqrt(-2 * ln(1 - chance(concat(key, ':radius'), seed))) * cos(2 * pi() * chance(concat(key, ':angle'), seed)), 9
);
