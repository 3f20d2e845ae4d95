"""The page for users of other trainers: each script runs, and the words of the page are right."""

import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from pages import blocks, page

import helios
from helios.testing import equal
from helios.trainer.arguments import foreign

PAGE = page("coming-from")
SECTIONS = {text.partition("\n")[0]: text for text in re.split(r"^## ", PAGE, flags=re.M)[1:]}
PEERS = {
    "Lightning": "lightning",
    "Hugging Face's Trainer": "transformers",
    "Ignite": "ignite",
    "Accelerate": "accelerate",
}


def run(program: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "docs/coming-from.md", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_section_has_two_scripts() -> None:
    assert list(SECTIONS) == ["A plain loop", *PEERS]
    assert all(len(blocks("python", text)) == 2 for text in SECTIONS.values())


@pytest.mark.parametrize("name", PEERS)
def test_script_of_helios(name: str) -> None:
    found = run(blocks("python", SECTIONS[name])[1])
    assert found["accuracy"] > 0.8
    assert found["trainer"].run_root.is_dir()


def test_same_weights_as_a_plain_loop() -> None:
    before, after = (run(program) for program in blocks("python", SECTIONS["A plain loop"]))
    assert before["accuracy"] == pytest.approx(after["accuracy"])
    assert equal(dict(before["net"].state_dict()), dict(after["model"].net.state_dict()))


@pytest.mark.parametrize("name", PEERS)
def test_script_of_another_trainer(name: str, tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec(PEERS[name]) is None:
        pytest.skip(f"{PEERS[name]} is not installed")
    program = blocks("python", SECTIONS[name])[0] + "\nassert accuracy > 0.8\n"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=300)


def in_helios(name: str) -> str:
    """Return the right column of a section's table."""
    rows = re.findall(r"^\| (.*) \| (.*) \|$", SECTIONS[name], re.MULTILINE)
    return "\n".join(right for _, right in rows[1:])


def test_arguments_of_the_tables_exist() -> None:
    known = set(inspect.signature(helios.Trainer).parameters)
    known |= {"batch_size", "train", "valid", "collate_fn", "checkpoint"}
    known |= set(inspect.signature(helios.Model.optimize).parameters)
    known |= set(inspect.signature(helios.Trainer.fit).parameters)
    for name in SECTIONS:
        written = set(re.findall(r"\b(\w+)=", in_helios(name)))
        assert written - known == set()


def test_plug_ins_of_the_tables_exist() -> None:
    text = page("builtin-plugins")
    for name in SECTIONS:
        for group in re.findall(r"plug-ins? ((?:`[\w-]+`(?:, | and )?)+)", in_helios(name)):
            for plugin in re.findall(r"`([\w-]+)`", group):
                assert f"`{plugin}`" in text or plugin == "tensorboard", plugin


@pytest.mark.parametrize(
    "word",
    [
        *("max_epochs", "check_val_every_n_epoch", "num_sanity_val_steps", "gradient_clip_val"),
        *("limit_train_batches", "accumulate_grad_batches", "default_root_dir", "ckpt_path"),
        *("num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate"),
        *("lr_scheduler_type", "warmup_steps", "max_grad_norm", "gradient_accumulation_steps"),
        *("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
        *("logging_steps", "report_to", "load_best_model_at_end", "metric_for_best_model"),
        *("bf16", "torch_compile", "gradient_checkpointing", "seed", "full_determinism"),
        *("output_dir", "epoch_length", "mixed_precision", "train_dataset", "eval_dataset"),
        *("data_collator", "compute_metrics", "val_dataloaders"),
    ],
)
def test_words_of_other_trainers_are_known(word: str) -> None:
    assert word in foreign.ARGUMENTS
    assert word in PAGE
