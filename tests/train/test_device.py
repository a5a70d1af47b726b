"""Device settings."""

import pytest
import torch

from mctrace.errors import ConfigError
from mctrace.train.device import resolve_device


def test_asking_for_cuda_without_one_is_a_configuration_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"train\.device"):
        resolve_device("cuda")
