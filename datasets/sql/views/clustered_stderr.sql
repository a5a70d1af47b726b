-- Standard error of a weighted mean with documents as clusters, from each document's weighted total and weight: the
-- linearised ratio's, with the factor n / (n - 1) for n documents. Null with one document.
create macro clustered_stderr(total, weight) as
    case
        when count(*) > 1 then sqrt(
            count(*) / (count(*) - 1) * greatest(
                sum(total ** 2)
                - 2 * (sum(total) / sum(weight)) * sum(total * weight)
                + (sum(total) / sum(weight)) ** 2 * sum(weight ** 2),
                0
            )
        ) / sum(weight)
    end;
