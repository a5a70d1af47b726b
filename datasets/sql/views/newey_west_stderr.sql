-- newey_west_stderr(values): the standard error of the mean of a series whose neighbours are correlated, from its
-- autocovariances up to a lag of floor(4 (n/100)^(2/9)) with Bartlett's weights (Newey and West 1987, 1994); null below
-- four values. Where neighbours are independent it is near sd / sqrt(n).
create macro newey_west_lags(n) as least(floor(4 * (n / 100) ** (2 / 9))::bigint, n - 1);

create macro centred(values) as list_transform(values::double[], lambda v: v - list_avg(values::double[]));

create macro autocovariance_sum(deviations, lags) as list_inner_product(deviations, deviations) + list_sum(
    list_transform(
        range(1, lags + 1),
        lambda k: 2 * (1 - k / (lags + 1))
        * list_inner_product(deviations[: len(deviations) - k], deviations[k + 1 :])
    )
);

create macro newey_west_stderr(values) as case
    when len(values) >= 4 then sqrt(
        greatest(autocovariance_sum(centred(values), newey_west_lags(len(values))), 0) / len(values) / (len(values) - 1)
    )
end;
