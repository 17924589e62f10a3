"""Loading says nothing, and leaves the user's logging and progress bars as they were."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest
from transformers.utils import logging as transformers_logging

from layerwise.models import load_model
from layerwise.models.libraries.quiet import quiet
from tests.models.tiny import tiny_folder


@pytest.mark.long  # by day the next test hears what is written in this process
@pytest.mark.parametrize("setting", [None, "0"])
def test_a_program_that_loads_a_model_prints_only_its_own(tmp_path, cache, setting):
    folder = tiny_folder(tmp_path, "phi3")
    code = (
        "import warnings; warnings.simplefilter('error');"
        "from layerwise.models import load_model; load_model(__import__('sys').argv[1]);"
        "import logging; print(logging.getLogger().handlers)"
    )
    environment = {**os.environ, "LAYERWISE_CACHE": str(cache)}
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    if setting is not None:
        environment["HF_HUB_DISABLE_PROGRESS_BARS"] = setting
    command = [sys.executable, "-c", code, str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (out.returncode, out.stdout.strip(), out.stderr) == (0, "[]", "")


def test_everything_is_as_before(tmp_path, capfd):
    root = logging.getLogger()
    transformers_logging.enable_progress_bar()
    before = (transformers_logging.get_verbosity(), list(root.handlers), list(root.filters))
    folder = tiny_folder(tmp_path, "llama")
    capfd.readouterr()
    load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    after = (transformers_logging.get_verbosity(), list(root.handlers), list(root.filters))
    assert after == before


def test_notes_of_others_still_pass(caplog):
    with quiet():
        logging.warning("mine")
        logging.getLogger("layerwise").warning("ours")
    assert [record.message for record in caplog.records] == ["mine", "ours"]


def test_only_the_deprecation_of_hooked_transformer_is_silenced():
    from layerwise.models.libraries.quiet import silence_deprecation

    with silence_deprecation("HookedTransformer"):
        warnings.warn("HookedTransformer is deprecated and will go", DeprecationWarning, 1)
        with pytest.raises(DeprecationWarning, match="something else"):
            warnings.warn("something else", DeprecationWarning, 1)
