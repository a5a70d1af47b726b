#!/usr/bin/env bash
# The whole way on one machine: one text, then collect, verify, ask, train, evaluate, loop, report. Run by `make demo`.
set -euo pipefail
bin=$1
config=cli/demo.toml

step() {
    echo
    echo "\$ mctrace $*"
    "$bin/mctrace" "$@"
}

mkdir -p demo
"$bin/python" -c 'from pydoc_data.topics import topics; print(topics["global"])' > demo/global.txt
echo "One text first: what is every sentence of Python's page on \"global\" worth for what follows it?"
step attribute demo/global.txt --top 5 --out demo/global.html
echo "(after $SECONDS s; the first use of a model converts it, once)"

echo
echo "Now many labels: sources with facts planted in them that are asked for thousands of tokens later. A context is"
echo "the newest text, or blocks at random; others are absent, and a label says what showing one again would save, or"
echo "what leaving one out would cost."
step collect --config $config
step log --config $config
step verify --config $config --quick
echo
echo "What would showing a block again save, in nats per token? Nearly always nothing, and now and then much:"
step sql --config $config \
    "select action, estimator, count(*) as labels, round(avg(value_of_detail), 4) as mean_value,
            round(median(value_of_detail), 4) as median_value, round(max(value_of_detail), 3) as largest
     from labels group by all order by all"
echo
echo "Which blocks are they? The ten most valuable:"
step sql --config $config \
    "with top as (from labels where action = 'insert' order by value_of_detail desc, snapshot_id limit 10),
     tokens as (select document_id, unnest(tokens) as token_id, generate_subscripts(tokens, 1) - 1 as place
                from document_tokens semi join top using (document_id))
     select round(value_of_detail, 3) as value, distance_to_cursor as tokens_back,
            replace(string_agg(text, '' order by place), chr(10), ' ') as block
     from top join tokens using (document_id) join vocabulary using (token_id)
     where place // 32 = node_index group by all order by value desc"
step train --config $config --preset small --target value_and_price --out demo/lensnet --overwrite
step train --config $config --preset small --target value_and_price --network linear --out demo/linear --overwrite
echo
echo "On documents that no network has seen, does a score agree with the labels?"
step evaluate demo/lensnet/best demo/linear/best --config $config
echo
echo "And does it make better contexts? Each policy shows blocks within a budget while the questions stream by; the"
echo "loss of the base model on what follows, against truncation (recency) and knowing the facts that are asked for (told):"
step evaluate demo/lensnet/best --config $config --closed-loop
step report --config $config --run demo/lensnet --run demo/linear --out demo/report.html

cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  one text     demo/global.html           (open it in a browser: point at a sentence, click it)
  report       demo/report.html           (open it in a browser)
  labels       demo/store                 (mctrace sql --store demo/store "describe labels")
  checkpoints  demo/lensnet, demo/linear  (tensorboard --logdir demo)
Try next:
  $bin/mctrace attribute YOUR.txt --out yours.html
  $bin/mctrace sql --store demo/store --questions
  $bin/mctrace collect --config $config --limit 60     (more labels; measures nothing twice)
  $bin/mctrace train --store demo/store --preset small --target value --out demo/value
  $bin/mctrace init                                    (a pipeline.toml for your own corpus and model)

What these $((SECONDS / 60)) minutes showed:
END
"$bin/python" -m mctrace.cli.demo_findings demo/lensnet
