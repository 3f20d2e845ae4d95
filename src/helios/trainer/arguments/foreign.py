"""The words of other trainers, and what to write instead: arguments, precisions."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from helios.core.rules import shown

T = TypeVar("T", bound=type)


def _words(*groups: tuple[str, str]) -> dict[str, str]:
    return {name: instead for names, instead in groups for name in names.split()}


_LENGTH = (
    'pass total_steps=..., the number of epochs; with train_unit="iteration", of optimizer steps'
)
_LOADER = "pass it in DataLoaderParams, with which the DataModule creates a dataset"
_MODEL = "create the optimizer in setup() of the Model, and call self.optimize(...) in train_step"
_DATA = (
    "pass it to fit(model, datamodule), which takes a Model and a DataModule, such as"
    " helios.DataModule.of(train=..., valid=..., batch_size=32)"
)

ARGUMENTS = _words(
    ("max_epochs epochs n_epochs nb_epochs num_epochs total_epochs num_train_epochs", _LENGTH),
    ("max_steps max_iter max_iters num_steps n_steps total_iters min_epochs min_steps", _LENGTH),
    (
        "epoch_length steps_per_epoch",
        "let the dataset of the DataModule determine the batches of an epoch",
    ),
    ("limit_train_batches max_train_samples", 'pass limit_batches={"training": ...}'),
    ("limit_val_batches max_eval_samples", 'pass limit_batches={"validation": ...}'),
    ("limit_test_batches", 'pass limit_batches={"testing": ...}'),
    ("limit_predict_batches max_predict_samples", 'pass limit_batches={"prediction": ...}'),
    (
        "num_sanity_val_steps sanity_check eval_on_start",
        "pass valid_first=True for a validation before the first step, or fast_dev_run=True for a"
        " trial of everything",
    ),
    ("dry_run debug smoke_test", "pass fast_dev_run=True for a trial whose files are deleted"),
    ("overfit overfit_pct", "pass overfit_batches=..., a number or fraction of batches"),
    (
        "val_check_interval check_val_every_n_epoch eval_steps eval_strategy eval_interval"
        " evaluation_strategy validation_freq val_frequency val_freq eval_every",
        "pass valid_frequency=..., the number of epochs or optimizer steps between validations, or"
        " a fraction of an epoch, such as 0.25",
    ),
    (
        "log_every_n_steps logging_steps log_interval log_every",
        "pass print_frequency=..., a number of optimizer steps",
    ),
    (
        "logging_strategy progress_bar_refresh_rate",
        "pass print_frequency=..., a number of optimizer steps",
    ),
    (
        "save_steps save_strategy save_interval save_every enable_checkpointing"
        " checkpoint_callback every_n_epochs",
        "pass chkpt_frequency=... with run_root=... or chkpt_root=...",
    ),
    ("save_total_limit save_top_k max_to_keep", "pass keep_last=... or keep_best=..."),
    (
        "default_root_dir output_dir log_dir logging_dir save_dir dirpath weights_save_path",
        "pass run_root=..., the folder for all files of a run",
    ),
    ("checkpoint_dir ckpt_dir checkpoint_path", "pass chkpt_root=..."),
    (
        "resume resume_from_checkpoint ckpt_path auto_resume load_path",
        "call fit(model, datamodule, resume=True, False, or the path of a checkpoint); with"
        " run_root=... or chkpt_root=..., fit() resumes from the newest checkpoint",
    ),
    (
        "init_from pretrained pretrained_path load_weights init_checkpoint",
        "call fit(model, datamodule, init_from=...), the file with the first weights",
    ),
    (
        "accelerator device cuda no_cuda cpu gpu tpu_cores",
        "pass use_cpu=True for the CPU, or gpus=[0] for a GPU",
    ),
    (
        "num_devices num_processes num_gpus nproc_per_node",
        "pass devices=..., the number of processes on this node, or start the program with"
        " torchrun",
    ),
    (
        "num_nodes strategy world_size sync_batchnorm ddp fsdp deepspeed use_distributed_sampler",
        "pass devices=..., or start the program with torchrun on each node; a plug-in can provide"
        " more, with the hooks launch and prepare_module",
    ),
    ("callbacks callback", "pass plugins=[...], with plug-ins in place of callbacks"),
    (
        "logger loggers report_to",
        "pass plugins=[...] with a plug-in that logs, such as metrics-file, or pass run_root=...",
    ),
    (
        "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps accumulate_grad"
        " gradient_accumulation",
        "pass accumulation_steps=...",
    ),
    (
        "gradient_clip_val max_grad_norm clip_grad_norm grad_clip clip_norm clipnorm"
        " gradient_clip_norm",
        "call self.optimize(loss, optimizer, clip_norm=...) in train_step",
    ),
    (
        "gradient_clip_algorithm clip_grad_value clip_value clipvalue",
        "call self.optimize(loss, optimizer, clip_value=...) in train_step",
    ),
    ("deterministic full_determinism", "pass enable_deterministic=True"),
    ("benchmark cudnn_benchmark", "pass enable_cudnn_benchmark=True"),
    ("seed data_seed random_state seed_everything", "pass random_seed=..."),
    ("verbose disable_tqdm progress_bar show_progress", "pass enable_progress_bar=True or False"),
    ("enable_model_summary", 'pass plugins=["summary"]'),
    (
        "fp16 half mixed_precision amp use_amp amp_backend amp_level",
        'pass precision="fp16" or precision="bf16"',
    ),
    ("bf16", 'pass precision="bf16"'),
    (
        "patience early_stopping early_stopping_patience early_stop",
        "pass early_stop_cycles=..., the number of validations without improvement, with"
        ' best=("loss", "min"); the plug-in "early-stopping" watches another metric',
    ),
    (
        "monitor mode min_delta metric_for_best_model greater_is_better load_best_model_at_end",
        'pass best=("loss", "min"); test(..., checkpoint="best") then tests the best weights',
    ),
    ("profiler", "pass profile_plugins=True, or use torch.profiler in a plug-in"),
    (
        "model args train_dataset eval_dataset train_loader val_loader valid_loader"
        " train_dataloader train_dataloaders val_dataloader val_dataloaders validation_data"
        " validation_split data"
        " datamodule data_collator",
        _DATA,
    ),
    (
        "batch_size per_device_train_batch_size per_device_eval_batch_size num_workers workers"
        " shuffle dataloader_num_workers dataloader_drop_last dataloader_pin_memory collate_fn"
        " reload_dataloaders_every_n_epochs",
        _LOADER,
    ),
    (
        "optimizer optimizers optim learning_rate lr weight_decay loss loss_fn criterion"
        " process_function",
        _MODEL,
    ),
    (
        "scheduler lr_scheduler lr_scheduler_type warmup_steps warmup_ratio",
        'pass plugins=[("scheduler", {"schedule": "cosine", "warmup": 0.1})], or pass a scheduler'
        " to self.optimize(loss, optimizer, scheduler=...)",
    ),
    ("torch_compile compile", 'pass plugins=["compile"]'),
    ("gradient_checkpointing", 'pass plugins=["gradient-checkpointing"]'),
    ("track_grad_norm", 'pass plugins=["gradient-norm"]'),
    (
        "auto_lr_find auto_scale_batch_size auto_find_batch_size",
        "call find_learning_rate() or find_batch_size() of helios.finders before fit()",
    ),
    (
        "config cfg conf hparams hyperparameters training_args opt options params settings",
        "pass each setting by its own name, as in Trainer(**config)",
    ),
    ("metrics compute_metrics", "call self.log(name, value) in the steps of the Model"),
    ("inference_mode", "remove it, because validation and tests always run without gradients"),
    ("detect_anomaly", 'pass plugins=["anomaly-detection"]'),
    (
        "terminate_on_nan nan_policy check_finite logging_nan_inf_filter skip_nan",
        'pass plugins=["nan-guard"], or ("nan-guard", {"action": "skip"}) in this list',
    ),
)
"""The arguments of other trainers, with what to do instead."""

FIT = _words(
    (
        "train_dataloader train_dataloaders val_dataloader val_dataloaders train_loader val_loader"
        " dataloaders dataloader data train_data validation_data x y",
        "pass a DataModule as the second argument, such as helios.DataModule.of(train=...,"
        " valid=...)",
    ),
    (
        "resume_from_checkpoint ckpt_path checkpoint ckpt load_path auto_resume resume_from",
        "pass resume=..., the path of a checkpoint, or True to resume from the newest one",
    ),
    (
        "weights weights_path weights_only pretrained init_checkpoint load_weights init_weights",
        "pass init_from=..., the path of a file with the first weights",
    ),
)
"""The arguments of other functions that train."""

TEST = _words(
    (
        "test_dataloader test_dataloaders test_loader dataloaders dataloader data",
        "pass a DataModule as the second argument, such as helios.DataModule.of(test=...)",
    ),
    (
        "ckpt_path ckpt checkpoint_path weights weights_path",
        'pass checkpoint="best", "last", or the path of a checkpoint',
    ),
)
"""The arguments of other functions that validate or test."""

PREDICT = {
    **TEST,
    **_words(
        ("return_predictions", "remove it, because predictions are returned without a writer"),
        ("dataset x test_dataset", "pass a DataModule as the second argument, and split=..."),
    ),
}
"""The arguments of other functions that predict."""

_PRECISIONS = {
    "fp16": ("16", "16-mixed", "16-true", "float16", "torch.float16", "half", "torch.half"),
    "bf16": ("bf16-mixed", "bf16-true", "bfloat16", "torch.bfloat16"),
    "fp32": ("32", "32-true", "float32", "torch.float32", "no", "full", "float", "none", "false"),
}


def precision_meant(value: object) -> str | None:
    """Return the precision of Helios that another trainer calls by a value, or ``None``."""
    written = (value if isinstance(value, str) else shown(value)).lower()
    return next((name for name, others in _PRECISIONS.items() if written in others), None)


def refuse(call: str, names: Iterable[str], words: Mapping[str, str]) -> None:
    """Raise an error for the first argument that another trainer has.

    Args:
        call: the function that was called, such as ``"Trainer"``.
        names: the names of arguments that the function does not have.
        words: what to write instead, by name.

    Raises:
        TypeError: one of the names is a word of another trainer.
    """
    for name in names:
        instead = words.get(name)
        if instead is None and name in ARGUMENTS:
            instead = f"{ARGUMENTS[name]} (see the arguments of Trainer)"
        if instead is not None:
            raise TypeError(
                f"{call}() has no argument {name!r}, which is a word of other trainers. Instead,"
                f" {instead}."
            )


def refuses_foreign_arguments(trainer: T) -> T:
    """Let the methods of a class that run refuse the arguments of other trainers by name."""
    for name, words in (("fit", FIT), ("validate", TEST), ("test", TEST), ("predict", PREDICT)):
        setattr(trainer, name, _refusing(getattr(trainer, name), words))
    return trainer


def _refusing(method: Callable[..., Any], words: Mapping[str, str]) -> Callable[..., Any]:
    code = method.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        refuse(method.__name__, (name for name in kwargs if name not in known), words)
        return method(*args, **kwargs)

    return call
