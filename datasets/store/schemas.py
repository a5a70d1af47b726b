"""The store's tables, column by column; FORMAT.md says the same for readers without this package."""

import pyarrow as pa

FORMAT_VERSION = 1
"""Raised when an older mctrace could no longer read what is written."""

COLUMNS_VERSION = 7
"""Raised when a table gains a column. A part's folder ends in it, so that a reader of many thousand files
need not open each of them to learn which it lacks."""

SPLITS = ("train", "validation", "test")
"""values of the columns `split`"""

_TOKENS = pa.int64()
_NATS = pa.list_(pa.float32())

DOCUMENTS = pa.schema(
    [
        ("document_id", pa.string()),
        ("source", pa.string()),
        ("tokenizer_hash", pa.string()),
        ("gist_hash", pa.string()),
        ("model_hash", pa.string()),
        ("dtype", pa.string()),
        ("num_tokens", _TOKENS),
        ("block_size", pa.int32()),
        ("max_level", pa.int32()),
        ("split_group", pa.string()),
        ("split", pa.string()),
        ("minhash", pa.list_(pa.uint32())),
        ("arrays", pa.string()),
        ("first_rows", pa.list_(pa.int64())),
        ("metadata", pa.string()),
    ]
)

PLACEMENTS = pa.schema(
    [
        ("document_id", pa.string()),
        ("tokenizer_hash", pa.string()),
        ("split_group", pa.string()),
        ("split", pa.string()),
        ("minhash", pa.list_(pa.uint32())),
        ("threshold", pa.float64()),
        ("num_bands", pa.int32()),
        ("band_size", pa.int32()),
    ]
)

ACTIONS_TAKEN = pa.list_(
    pa.struct([("action", pa.string()), ("node_level", pa.uint8()), ("node_index", pa.int64())])
)
"""Actions of a live runtime, in the order in which it took them."""

TRAJECTORIES = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("run_id", pa.string()),
        ("document_id", pa.string()),
        ("policy", pa.string()),
        ("variant_group", pa.string()),
        ("model_hash", pa.string()),
        ("tokenizer_hash", pa.string()),
        ("gist_hash", pa.string()),
        ("dtype", pa.string()),
        ("block_size", pa.int32()),
        ("max_level", pa.int32()),
        ("protected_tail", _TOKENS),
        ("start", _TOKENS),
        ("levels", pa.list_(pa.uint8())),
        ("cursors", pa.list_(_TOKENS)),
        ("horizon", _TOKENS),
        ("baseline_nll", _NATS),
        ("num_legal_actions", pa.int64()),
        ("num_tokens_run", pa.int64()),
        ("seconds", pa.float64()),
        ("baseline_status", pa.string()),
        ("absence", pa.string()),
        ("host", pa.string()),
        ("device", pa.string()),
        ("software", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("ended_at", pa.timestamp("us", tz="UTC")),
        ("logged_at", pa.timestamp("us", tz="UTC")),
        ("actions_taken", ACTIONS_TAKEN),
        ("semantics", pa.string()),
        ("gist_positions", pa.int32()),
    ]
)

QUARANTINED = pa.schema(
    [
        ("part_id", pa.string()),
        ("kind", pa.string()),
        ("trajectory_id", pa.string()),
        ("document_id", pa.string()),
        ("source", pa.string()),
        ("run_id", pa.string()),
        ("reason", pa.string()),
        ("num_attempts", pa.int32()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)

EFFECTS = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("action", pa.string()),
        ("node_level", pa.uint8()),
        ("node_index", pa.int64()),
        ("entry_level", pa.uint8()),
        ("first_token", _TOKENS),
        ("delta_nll", _NATS),
        ("estimator", pa.string()),
        ("estimator_window", pa.int64()),
        ("inclusion_probability", pa.float64()),
        ("status", pa.string()),
        ("first_entry", pa.int64()),
        ("num_entries", pa.int64()),
        ("cursor_delta_nll", pa.list_(pa.float64())),
        ("cursor_stderr", pa.list_(pa.float64())),
        ("gradient_stretches", pa.list_(_TOKENS)),
    ]
)

JOINT_EFFECTS = pa.schema(
    [
        ("trajectory_id", pa.string()),
        (
            "actions",
            pa.list_(
                pa.struct([("action", pa.string()), ("node_level", pa.uint8()), ("node_index", pa.int64())])
            ),
        ),
        ("first_token", _TOKENS),
        ("delta_nll", _NATS),
        ("sum_of_singles", _NATS),
        ("status", pa.string()),
    ]
)

ATTENTION = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("attention_mass", pa.list_(pa.float32())),
        ("status", pa.string()),
    ]
)

_FIDELITY = pa.struct(
    [
        ("num_actions", pa.int64()),
        ("spearman", pa.float64()),
        ("sign_agreement", pa.float64()),
        ("top_k_recall", pa.float64()),
        ("mae", pa.float64()),
    ]
)

_STRATUM = pa.struct(
    [
        ("action", pa.string()),
        ("node_level", pa.int64()),
        ("num_actions", pa.int64()),
        ("spearman", pa.float64()),
        ("pearson", pa.float64()),
        ("sign_agreement", pa.float64()),
        ("top_k_recall", pa.float64()),
        ("residual_variance", pa.float64()),
    ]
)

_PROBE = pa.struct(
    [
        ("version", pa.int64()),
        ("nll", pa.float64()),
        ("delta_nll", pa.list_(pa.float64())),
        ("gists", pa.list_(pa.float64())),
        ("gist_block_size", pa.int64()),
        ("no_op", pa.float64()),
        ("largest_difference", pa.float64()),
        ("workers", pa.list_(pa.string())),
    ]
)

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("event", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("model_name", pa.string()),
        ("model_revision", pa.string()),
        ("model_hash", pa.string()),
        ("tokenizer_hash", pa.string()),
        ("gist_source", pa.string()),
        ("gist_hash", pa.string()),
        ("dtype", pa.string()),
        ("estimator", pa.string()),
        ("config", pa.string()),
        ("software", pa.string()),
        ("outcome", pa.string()),
        ("estimator_window", pa.int64()),
        ("noise_floor", pa.struct([("no_op", pa.float64()), ("regrouped", pa.float64())])),
        ("calibration_id", pa.string()),
        ("calibration", _FIDELITY),
        ("audit", _FIDELITY),
        ("probe", _PROBE),
        ("calibration_strata", pa.list_(_STRATUM)),
        ("semantics", pa.string()),
        ("gist_positions", pa.int32()),
    ]
)

EMBEDDINGS = pa.schema(
    [
        ("model_hash", pa.string()),
        ("dtype", pa.string()),
        ("vocabulary_size", pa.int64()),
        ("embedding_dim", pa.int64()),
        ("arrays", pa.string()),
    ]
)

VOCABULARY = pa.schema(
    [
        ("tokenizer_hash", pa.string()),
        ("token_id", pa.int32()),
        ("text", pa.string()),
    ]
)

TOKEN_BYTES = pa.schema(
    [
        ("tokenizer_hash", pa.string()),
        ("token_id", pa.int32()),
        ("bytes", pa.binary()),
    ]
)

DATASETS = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("recipe_name", pa.string()),
        ("recipe", pa.string()),
        ("recipe_hash", pa.string()),
        ("seed", pa.int64()),
        ("variables", pa.string()),
        ("parent_version", pa.int64()),
        ("parent_dataset", pa.string()),
        ("num_rows", pa.int64()),
    ]
)

DERIVED_LABELS = pa.schema(
    [
        ("run_id", pa.string()),
        ("trajectory_id", pa.string()),
        ("snapshot_id", pa.string()),
        ("document_id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("policy", pa.string()),
        ("cursor", _TOKENS),
        ("cursor_offset", _TOKENS),
        ("action", pa.string()),
        ("node_level", pa.uint8()),
        ("node_index", pa.int64()),
        ("entry_level", pa.uint8()),
        ("span_width", _TOKENS),
        ("distance_to_cursor", _TOKENS),
        ("horizon", _TOKENS),
        ("delta_nll", pa.float64()),
        ("stderr", pa.float64()),
        ("value_of_detail", pa.float64()),
        ("positions", pa.int32()),
        ("inclusion_probability", pa.float64()),
        ("estimator", pa.string()),
        ("estimator_window", pa.int64()),
        ("attention_mass", pa.float64()),
        ("model_hash", pa.string()),
        ("gist_hash", pa.string()),
        ("dtype", pa.string()),
        ("start", _TOKENS),
        ("shadow_price", pa.float64()),
        ("hac_stderr", pa.float64()),
        ("semantics", pa.string()),
    ]
)

DERIVED_PAIRS = pa.schema(
    [
        ("variant_group_id", pa.string()),
        ("document_id", pa.string()),
        ("split", pa.string()),
        ("cursor", _TOKENS),
        ("better_snapshot_id", pa.string()),
        ("worse_snapshot_id", pa.string()),
        ("better_adv_delta", pa.float64()),
        ("worse_adv_delta", pa.float64()),
        ("strength", pa.float64()),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "documents": DOCUMENTS,
    "placements": PLACEMENTS,
    "trajectories": TRAJECTORIES,
    "effects": EFFECTS,
    "joint_effects": JOINT_EFFECTS,
    "attention": ATTENTION,
    "quarantined": QUARANTINED,
    "runs": RUNS,
    "embeddings": EMBEDDINGS,
    "vocabulary": VOCABULARY,
    "token_bytes": TOKEN_BYTES,
    "datasets": DATASETS,
    "derived_labels": DERIVED_LABELS,
    "derived_pairs": DERIVED_PAIRS,
}

DATASET_COMMITS = pa.schema([("name", pa.string()), ("committed_at", pa.timestamp("us", tz="UTC"))])
"""When each derived dataset was committed, of the ledger; no table of its own."""

ADDED_COLUMNS = {
    "documents": {"first_rows", "metadata"},
    "trajectories": {
        "baseline_status",
        "absence",
        "host",
        "device",
        "software",
        "started_at",
        "ended_at",
        "logged_at",
        "actions_taken",
        "semantics",
        "gist_positions",
    },
    "effects": {"first_entry", "num_entries", "cursor_delta_nll", "cursor_stderr", "gradient_stretches"},
    "runs": {
        "estimator_window",
        "noise_floor",
        "calibration_id",
        "calibration",
        "audit",
        "probe",
        "calibration_strata",
        "semantics",
        "gist_positions",
    },
    "derived_labels": {"hac_stderr", "semantics"},
}
"""Columns that files of mctrace 0.1 lack; they read as NULL."""

LEDGER = pa.schema(
    [
        ("part_id", pa.string()),
        ("kind", pa.string()),
        ("run_id", pa.string()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        ("folder", pa.string()),
        (
            "files",
            pa.list_(pa.struct([("path", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])),
        ),
        ("tables", pa.list_(pa.struct([("name", pa.string()), ("num_rows", pa.int64())]))),
        ("lineage", pa.list_(pa.string())),
    ]
)
