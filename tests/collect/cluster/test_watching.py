"""Logs, metrics with their dashboard, and rates by node."""

import json
import logging
import re
from pathlib import Path

import pytest

from mctrace.collect.cluster import metrics, node_rates
from mctrace.collect.cluster.metrics import METRICS, observe, peak_flops
from mctrace.collect.cluster.node_rates import NodeRates
from mctrace.collect.cluster.run_logs import LogConfig, keep_logs
from mctrace.errors import ConfigError, OutputError


@pytest.fixture
def logger():
    logger = logging.getLogger("mctrace")
    before, level = list(logger.handlers), logger.level
    yield logger
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_json_logs_have_a_line_per_record_with_its_own_fields(logger, tmp_path):
    keep_logs(LogConfig(str(tmp_path / "logs"), format="json"), "worker")
    child = logging.getLogger("mctrace.collect.workers.worker")
    child.info("measured %s", "a.txt", extra={"part_id": "1234", "seconds": 0.5})
    child.debug("not at this level")
    (file,) = (tmp_path / "logs").iterdir()
    (row,) = map(json.loads, file.read_text().splitlines())
    assert (row["message"], row["part_id"], row["seconds"]) == ("measured a.txt", "1234", 0.5)
    assert (row["level"], row["role"]) == ("info", "worker")
    assert {"time", "host", "pid"} <= row.keys()


def test_text_logs_keep_the_level_that_was_asked_for(logger, tmp_path):
    keep_logs(LogConfig(str(tmp_path), level="warning"), "driver")
    logger.info("too little")
    logger.warning("a node is lost")
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"\S+ \S+ WARNING driver \d+: a node is lost\n", file.read_text())


def test_a_folder_that_cannot_be_made_and_a_level_that_is_none_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write logs to"):
        keep_logs(LogConfig(str(tmp_path / "file" / "logs")), "driver")
    with pytest.raises(ConfigError, match=r"logs\.level"):
        LogConfig(level="loud")


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads(Path(metrics.__file__).with_name("grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = set(re.findall(r"ray_mctrace_(\w+?)(?:_total|_bucket)?\{", asked))
    assert named | {"gpu_memory_bytes"} == set(METRICS)


def test_without_an_exporter_nothing_is_recorded():
    observe("effects", 3)
    with pytest.raises(KeyError):
        observe("no such metric")


def test_peaks_are_known_by_the_makers_names():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 9.89e14
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 3.12e14
    assert peak_flops("NVIDIA GeForce GT 710") is None


def test_rates_are_those_of_the_last_minute(monkeypatch):
    now = 0.0
    monkeypatch.setattr(node_rates, "monotonic", lambda: now)
    rates = NodeRates()
    now = 10.0
    rates.add("a", 30)
    now = 20.0
    rates.add("a", 30)
    assert rates.rates() == {"a": 3.0}
    assert str(rates) == "", "the run's own rate says as much"
    rates.add("b", 20)
    assert str(rates) == "a 3.00/s, b 1.00/s"
    now = 75.0
    assert rates.rates() == {"a": 0.5, "b": pytest.approx(1 / 3)}
    now = 200.0
    assert rates.rates() == {}
