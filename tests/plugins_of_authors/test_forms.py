"""Plug-ins that change the form of the model."""

from typing import Any

from helpers import Make
from plugins_of_authors.unfreezing import UnfreezingPlugin

from helios.testing import TinyDataModule, TinyModel


def test_a_resumed_run_has_the_groups_of_the_optimizer(make_trainer: Make, tmp_path: Any) -> None:
    arguments = {"train_unit": "iteration", "run_root": tmp_path}  # 6 batches an epoch
    for total, groups, trains in [(4, 1, False), (9, 2, True), (10, 2, True), (11, 2, True)]:
        model = TinyModel()
        make_trainer(plugins=[UnfreezingPlugin()], total_steps=total, **arguments).fit(
            model, TinyDataModule()
        )
        assert len(model.optimizer.param_groups) == groups
        assert all(each.requires_grad == trains for each in model.net[0].parameters())
    momentum = model.optimizer.state[model.net[0].weight]["momentum_buffer"]
    assert momentum.abs().sum() > 0


def test_plugin_state_comes_before_the_form_and_the_form_before_the_weights(
    make_trainer: Make, tmp_path: Any
) -> None:
    seen: list[Any] = []

    class Watching(UnfreezingPlugin):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            seen.append("state")

        def on_model_ready(self, model: Any) -> None:
            super().on_model_ready(model)
            seen.append(len(model.optimizer.param_groups))

    class Model(TinyModel):
        def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
            super().load_state_dict(state_dict, fast_init)
            seen.append("weights")

    arguments: dict[str, Any] = {"run_root": tmp_path}
    for total, expected in [(2, [1]), (3, ["state", 2, "weights"])]:
        trainer = make_trainer(plugins=[Watching()], total_steps=total, **arguments)
        model = Model()
        seen.clear()
        trainer.fit(model, TinyDataModule())
        assert seen == expected
    seen.clear()
    trainer.test(model, TinyDataModule())
    assert seen == ["state", 2, "weights"]


def test_a_test_without_checkpoints_has_the_form_of_the_training(make_trainer: Make) -> None:
    plugin = UnfreezingPlugin()
    trainer, model = make_trainer(plugins=[plugin]), TinyModel()
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert len(model.optimizer.param_groups) == 2
