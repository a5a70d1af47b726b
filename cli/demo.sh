#!/usr/bin/env bash
# The whole way on one machine: collect, verify, ask, train, evaluate, report. Run by `make demo`.
set -euo pipefail
bin=$1
config=cli/demo.toml

step() {
    echo
    echo "\$ mctrace $*"
    "$bin/mctrace" "$@"
}

mkdir -p demo
step collect --config $config
step log --config $config
step verify --config $config --quick
echo
echo "Which edits matter? Value of detail in nats per token, and how far it stands out of its own noise:"
step sql --config $config \
    "select action, entry_level, count(*) as labels, round(avg(value_of_detail), 4) as mean_value,
            round(median(value_of_detail), 4) as median_value,
            round(avg((abs(delta_nll) > 2 * stderr)::int), 2) as share_beyond_2_stderr
     from labels group by all order by all"
echo
echo "What is worth most? The ten most valuable spans:"
step sql --config $config \
    "select source, action, node_level, distance_to_cursor, round(value_of_detail, 3) as value,
            round(stderr, 3) as stderr
     from labels order by value_of_detail desc, snapshot_id limit 10"
step train --config $config --preset small --target value_and_price --out demo/lensnet --overwrite
step train --config $config --preset small --target value_and_price --network linear --out demo/linear --overwrite
step evaluate demo/lensnet/best demo/linear/best --config $config
step report --config $config --run demo/lensnet --run demo/linear --out demo/report.html
echo
echo "One snapshot of a held-out document, with what LensNet makes of it:"
step show --config $config --checkpoint demo/lensnet/best --top 3 "$("$bin/mctrace" sql --config $config --format csv \
    "select snapshot_id from labels where split = 'test' group by all
     order by max(abs(value_of_detail)) desc, snapshot_id limit 1" | tail -n 1 | tr -d '\r')"

cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  report       demo/report.html           (open it in a browser)
  labels       demo/store                 (mctrace sql --store demo/store "describe labels")
  checkpoints  demo/lensnet, demo/linear  (tensorboard --logdir demo)
Try next:
  $bin/mctrace sql --store demo/store "select * from labels_at(64) limit 5"
  $bin/mctrace train --store demo/store --preset small --target literal --out demo/literal
  $bin/mctrace collect --config $config --limit 40     (more labels; measures nothing twice)
  $bin/mctrace collect --config $config --set gists.source=mean && $bin/mctrace report --config $config
                                                       (the same questions with mean gists, side by side)
  $bin/mctrace init                                    (a pipeline.toml for your own corpus and model)
END
