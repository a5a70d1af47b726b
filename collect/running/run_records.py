"""Run records in the store: a row when a run starts and one when it ends, with hashes and versions."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.measuring.estimator_agreement import EstimatorAgreement
from mctrace.collect.measuring.machine import software_versions
from mctrace.collect.running.calibration import RunChecks
from mctrace.collect.workers.worker import RunContext
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, write_part


def new_run_id() -> str:
    """The time in UTC, to the second, and a little chance."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def run_row(
    context: RunContext, source: ModelSource, resolved_config: str, checks: RunChecks
) -> Mapping[str, object]:
    """Columns that the start and end rows of a run share."""
    return {
        "run_id": context.run_id,
        "model_name": source.name,
        "model_revision": source.revision,
        "model_hash": context.provenance.model_hash,
        "tokenizer_hash": context.provenance.tokenizer_hash,
        "gist_source": context.gists.source,
        "gist_hash": context.provenance.gist_hash,
        **context.provenance.reading_columns,
        "dtype": context.provenance.dtype,
        "estimator": checks.estimator.name,
        "estimator_window": checks.estimator.window,
        "noise_floor": asdict(checks.noise_floor) if checks.noise_floor else None,
        "calibration_id": checks.calibration_id,
        "calibration": _pooled(checks.calibration) if checks.calibration else None,
        "calibration_strata": [asdict(s) for s in checks.calibration.strata] if checks.calibration else None,
        "probe": checks.agreement.row(context.provenance.block_size) if checks.agreement else None,
        "config": resolved_config,
        "software": json.dumps(software_versions()),
    }


def write_run_event(
    location: Location,
    row: Mapping[str, object],
    event: str,
    outcome: str | None = None,
    audit: EstimatorAgreement | None = None,
) -> Part:
    """The part of a run's "start" or "end" row; the driver commits it."""
    run_id = str(row["run_id"])
    part_id = hashlib.sha256(f"run {run_id} {event}".encode()).hexdigest()[:40]
    row = {
        **row,
        "event": event,
        "outcome": outcome,
        "audit": _pooled(audit) if audit and audit.num_actions else None,
        "recorded_at": datetime.now(UTC),
    }
    return write_part(location, part_id=part_id, kind="run", run_id=run_id, tables={"runs": [row]})


def _pooled(agreement: EstimatorAgreement) -> dict[str, object]:
    return {name: value for name, value in asdict(agreement).items() if name != "strata"}
