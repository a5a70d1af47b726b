"""Dataset card of an export: the README that Hugging Face shows, with all that is needed to read it."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mctrace.datasets.export.measurement_summary import measurement_lines, size_category

_COLUMNS = {
    "snapshot_id": "trajectory and cursor: one working context",
    "trajectory_id": "snapshots that share one LOD map for their head",
    "run_id": "see `mctrace-export.json`",
    "document_id": "sha256 of tokenizer and tokens; joins `documents` (with the hashes below)",
    "source": "where the text came from: data, not a path to follow",
    "split": "train, validation or test, by near-duplicate group of documents",
    "split_group": "document_id of the first of a group of near-duplicates",
    "metadata": "columns of the source's row, a JSON object; null without any",
    "policy": "who chose the LOD map",
    "cursor": "token at which prediction starts",
    "cursor_offset": "tokens since the LOD map was current",
    "start": "first token of the context",
    "horizon": "tokens after the cursor over which losses are averaged",
    "baseline_nll": "nats per token over the horizon, unedited context",
    "num_entries": "length of the `entry_` lists: tokens and gists of the working context",
    "num_positions": "positions that they take: a gist takes `gist_positions`",
    "protected_tail": "most recent tokens that never collapse",
    "block_size": "K, children per node",
    "max_level": "the coarsest level",
    "model_hash": "base model: configuration and weights",
    "tokenizer_hash": "sha256 of tokenizer.json",
    "gist_hash": "GistNet that made the gists",
    "semantics": "re_encoded: tokens after an edit were read again; kept: they stay as they were read",
    "gist_positions": "positions that a gist takes",
    "dtype": "of the base model when it was measured",
    "entry_level": "0 token, 1 gist of K tokens, 2 gist of K² tokens",
    "entry_node_index": "index of the node at its level: a token's offset, or the row of `gists_lod<level>`",
    "entry_first_token": "first token it stands for",
    "entry_span_width": "tokens it stands for",
    "entry_token": "token id; null for a gist",
    "entry_text": "its text; a character that its edge cuts goes to the next entry: joined they are the text",
    "action": "expand (a gist becomes its K children) or collapse (K siblings become their gist)",
    "action_node_level": "level of the node the action names",
    "action_node_index": "index of that node: tokens [index·K^level, (index+1)·K^level)",
    "action_entry_level": "level of the entries it acts on",
    "action_first_entry": "first of those entries, an index into the `entry_` lists",
    "action_num_entries": "how many they are",
    "action_distance_to_cursor": "tokens from the node's end to the cursor",
    "action_positions": "positions an expand costs or a collapse frees",
    "action_delta_nll": "loss after minus before, nats per token over the horizon; raw and signed",
    "action_stderr": "its standard error over the horizon's tokens",
    "action_value_of_detail": "loss of the coarse state minus loss of the fine one",
    "action_inclusion_probability": "probability with which the action was sampled; weigh by 1 / it",
    "action_estimator": "exact, windowed or gradient",
    "action_attention_mass": "base-model attention paid to its entries; null where not measured",
    "num_tokens": "length of the document",
    "tokens": "token ids",
    "text": "the tokens decoded",
    "token": "token id",
    "embedding": "what the base model makes of the token id, scaling included",
}


def dataset_card(about: Mapping[str, Any], schemas: Mapping[str, pa.Schema]) -> str:
    """README.md with the configurations Hugging Face's library looks for on top."""
    return "\n".join(
        [
            *_front_matter(about), *_introduction(about), *_loading(about), *measurement_lines(about),
            *_tables(about, schemas), "",
        ]
    )  # fmt: skip


def _front_matter(about: Mapping[str, Any]) -> list[str]:
    num_rows = sum(about["num_rows"]["snapshots"].values())
    lines = ["---", "pretty_name: Counterfactual context labels", "size_categories:"]
    lines += [f"- {size_category(num_rows)}", "tags:", "- mctrace"]
    if about["format"] == "parquet":
        lines.append("configs:")
        for table, splits in about["num_rows"].items():
            lines += [f"- config_name: {table}", *(["  default: true"] if table == "snapshots" else [])]
            lines.append("  data_files:")
            for split in splits:
                lines += [f"  - split: {split}", f"    path: {table}/{split}-*.parquet"]
    return [*lines, "---"]


def _introduction(about: Mapping[str, Any]) -> list[str]:
    snapshots = ", ".join(f"{count} {split}" for split, count in about["num_rows"]["snapshots"].items())
    lines = [
        "",
        "# Counterfactual context labels",
        "",
        "What each part of a language model's working context is worth for the tokens that come next,",
        "measured by editing exactly that part. One row is one working context (a mix of tokens and gists)",
        "with every action that was measured on it.",
        "",
        f"{snapshots} snapshots with {about['num_labels']} labels, from version {about['store_version']} of",
        f"a trace store, by mctrace {about['mctrace']}"
        + (f", where `{_code(about['where'])}`." if about["where"] else "."),
        "",
    ]
    lines += [
        f"- model {kind['model_hash'][:12]}, gists {kind['gist_hash'][:12]}, {kind['dtype']}, K = "
        f"{kind['block_size']}, levels 0 to {kind['max_level']}"
        for kind in about["provenance"]
    ]
    if len(about["provenance"]) > 1:
        lines += [
            "",
            "**Labels of different kinds do not compare**: select one by its hashes before learning from it.",
        ]
    return lines


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _loading(about: Mapping[str, Any]) -> list[str]:
    if about["format"] == "parquet":
        calls = [f'{table} = load_dataset("FOLDER", "{table}")' for table in about["num_rows"]]
    else:
        calls = [f'{table} = load_from_disk("FOLDER/{table}")' for table in about["num_rows"]]
    function = calls[0].split(" = ")[1].split("(")[0]
    return ["", "```python", f"from datasets import {function}", "", *calls, "```"]


def _tables(about: Mapping[str, Any], schemas: Mapping[str, pa.Schema]) -> list[str]:
    lines = [
        "",
        "Lists that begin alike (`entry_`, `action`) run in parallel. Token positions count from the start",
        "of the document. Runs, with their configuration, and each target's SQL are in",
        "`mctrace-export.json`.",
    ]
    for table, schema in schemas.items():
        lines += ["", f"## {table}", "", "| column | type | meaning |", "| --- | --- | --- |"]
        lines += [f"| {field.name} | {_type(field.type)} | {_meaning(field.name)} |" for field in schema]
    scale = about["utility_scale"]
    if scale:
        lines += [
            "",
            f"Utilities are in nats per token; one score unit of mctrace's trainer is {scale:.6g} of them.",
        ]
    return lines


def _type(kind: pa.DataType) -> str:
    return str(kind).replace("element: ", "").replace("item: ", "").replace("child: ", "").replace("l: ", "")


def _meaning(column: str) -> str:
    if column.startswith("action_utility_"):
        target = column.removeprefix("action_utility_")
        return f"target {target}, nats per token: what a loss would be given; null where it has none"
    if column.startswith("gists_lod"):
        return "one vector per complete node of that level"
    return _COLUMNS[column]
