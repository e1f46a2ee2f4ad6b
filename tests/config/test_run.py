"""The command line and a YAML preset fill the same object; what is wrong is named, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.config.command_line import build_parser, flag, parse
from bench.config.run import Options
from bench.errors import UserError


def options(*arguments: str) -> Options:
    return parse(build_parser(Options, "bench", "A benchmark."), Options, arguments)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        options(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def preset(folder: Path, text: str) -> str:
    file = folder / "preset.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_without_flags_the_defaults_are_taken() -> None:
    found = options()

    assert found == Options()
    assert found.models == ("cnn", "mobilenet")
    assert (found.epochs, found.batch_size, found.lr, found.bn_mode, found.seeds) == (5, 64, 1e-3, "eval", (0,))
    assert (found.dataset, found.data_dir, found.weights, found.results) == ("auto", None, ("auto",), Path("results"))
    assert (found.workers_per_job, found.cpus_per_worker, found.gpus_per_worker, found.address) == (1, None, None, None)
    assert (found.fresh, found.dry_run, found.verbose, found.question) == (False, False, False, None)
    assert (found.test_fraction, found.skip_unreadable) == (0.2, 0)


@pytest.mark.parametrize(
    ("asked", "seeds"),
    [
        (["5"], (0, 1, 2, 3, 4)),
        (["1"], (0,)),
        (["0", "1", "7"], (0, 1, 7)),
        (["7", "1"], (7, 1)),
    ],
    ids=str,
)
def test_one_number_of_seeds_is_a_count_and_several_are_the_seeds(
    asked: list[str], seeds: tuple[int, ...], tmp_path: Path
) -> None:
    assert options("--seeds", *asked).seeds == seeds
    assert options("--experiment", preset(tmp_path, f"seeds: [{', '.join(asked)}]")).seeds == seeds


def test_one_seed_can_be_named(tmp_path: Path) -> None:
    assert options("--seed", "3407").chosen_seeds == (3407,)
    assert options("--experiment", preset(tmp_path, "seed: 7")).chosen_seeds == (7,)
    assert options("--seeds", "2").chosen_seeds == (0, 1)
    with pytest.raises(UserError, match="--seed 3 is one seed, and --seeds names others; give one of the two"):
        options("--seed", "3", "--seeds", "5")
    with pytest.raises(UserError, match="at most 10,000; for the seed 20260 write --seed 20260"):
        options("--seeds", "20260")


def test_a_preset_may_give_the_count_of_seeds_as_a_plain_number(tmp_path: Path) -> None:
    assert options("--experiment", preset(tmp_path, "seeds: 3")).seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "values", "twice"), [("models", ["cnn", "mobilenet", "cnn"], "cnn"), ("seeds", ["3", "4", "3"], "3")]
)
def test_duplicates_are_refused(name: str, values: list[str], twice: str, tmp_path: Path) -> None:
    message = refused(flag(name), *values)
    assert flag(name) in message
    assert f"{twice} is named twice" in message

    in_yaml = refused("--experiment", preset(tmp_path, f"{name}: [{', '.join(values)}]"))
    assert f"{name} in {tmp_path}" in in_yaml
    assert f"{twice} is named twice" in in_yaml


def test_a_preset_fills_the_same_object_as_flags(tmp_path: Path) -> None:
    text = """
    models: [cnn]
    dataset: mnist-5k
    data-dir: /data/mnist
    weights: [none, cnn=mine.pth]
    test-fraction: 0.3
    skip-unreadable: 5
    epochs: 2
    batch-size: 128
    lr: 0.01
    bn_mode: train
    optimizer: sgd
    weight-decay: 0.01
    momentum: 0.8
    beta2: 0.99
    schedule: cosine
    label-smoothing: 0.1
    augment: trivial
    mixup: 0.2
    cutmix: 1
    warmup-epochs: 1
    precision: bf16
    trainable: all
    image-size: 64
    train-size: 100
    validation-size: 50
    target-accuracy: 0.9
    stop-at-target: true
    early-stopping: 3
    until-ci: 0.5
    max-seeds: 9
    lr-from-tune: true
    no-timing: true
    seeds: [3, 4]
    workers-per-job: 2
    cpus_per_worker: 1
    gpus-per-worker: 0
    address: 10.0.0.1:6379
    autoscaler: [4x8, "2x16,1"]
    timeout: 60
    max-failures: 0
    oom-backoff: true
    retry-failed: true
    results: there
    fresh: true
    dry-run: true
    verbose: true
    backends: [eager, openvino]
    prefer: size
    budget: size<5MB
    """
    flags = (
        "--models cnn --dataset mnist-5k --data-dir /data/mnist --weights none cnn=mine.pth --test-fraction 0.3 "
        "--skip-unreadable 5 --epochs 2 --batch-size 128 --lr 0.01 --bn-mode train --optimizer sgd "
        "--weight-decay 0.01 --momentum 0.8 --beta2 0.99 --schedule cosine --label-smoothing 0.1 "
        "--augment trivial --mixup 0.2 --cutmix 1 --warmup-epochs 1 --precision bf16 "
        "--trainable all --image-size 64 --train-size 100 --validation-size 50 --target-accuracy 0.9 --stop-at-target "
        "--early-stopping 3 "
        "--until-ci 0.5 --max-seeds 9 --lr-from-tune --no-timing --seeds 3 4 --workers-per-job 2 --cpus-per-worker 1 "
        "--gpus-per-worker 0 --address 10.0.0.1:6379 --autoscaler 4x8 2x16,1 "
        "--timeout 60 --max-failures 0 --oom-backoff "
        "--backends eager openvino --retry-failed --results there --fresh --dry-run --verbose "
        "--prefer size --budget size<5MB"
    )

    from_yaml = options("--experiment", preset(tmp_path, text))

    assert from_yaml == options(*flags.split())
    unset = {name for name in Options.model_fields if getattr(from_yaml, name) == Options.model_fields[name].default}
    assert unset == {"question", "variants", "seed"}  # every option was tried; --seed stands for --seeds


def test_flags_override_the_preset_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    file = preset(tmp_path, "epochs: 2\nlr: 0.1\nmodels: [cnn]\nseeds: 5\nfresh: false")

    found = options("--experiment", file, "--epochs", "9", "--seeds", "7", "8", "--fresh")

    assert (found.epochs, found.seeds, found.fresh) == (9, (7, 8), True)
    assert (found.lr, found.models) == (0.1, ("cnn",))


def test_keys_with_hyphens_and_with_underscores_are_the_same(tmp_path: Path) -> None:
    hyphens = options("--experiment", preset(tmp_path, "batch-size: 32\nbn-mode: train"))
    underscores = options("--experiment", preset(tmp_path, "batch_size: 32\nbn_mode: train"))

    assert hyphens == underscores == options("--batch-size", "32", "--bn-mode", "train")


@pytest.mark.parametrize("written", ["1e-3", "'1e-3'", "1.0e-3", "0.001"])
def test_a_learning_rate_may_be_written_in_any_usual_way(written: str, tmp_path: Path) -> None:
    """PyYAML takes 1e-3, without a point, for a string."""
    assert options("--experiment", preset(tmp_path, f"lr: {written}")).lr == 1e-3
    assert options("--lr", written.strip("'")).lr == 1e-3


def test_a_single_name_may_stand_for_a_list(tmp_path: Path) -> None:
    found = options("--experiment", preset(tmp_path, "models: cnn\nweights: none"))

    assert (found.models, found.weights) == (("cnn",), ("none",))


def test_a_preset_may_say_what_its_question_is_and_flags_may_not(tmp_path: Path) -> None:
    assert options("--experiment", preset(tmp_path, "question: Is it worth it?")).question == "Is it worth it?"
    assert "--question" in refused("--question", "why")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--epoch", "--epochs"),
        ("--batchsize", "--batch-size"),
        ("--batch_size", "--batch-size"),
        ("--seedss=4", "--seeds"),
        ("--model", "--models"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest(typed: str, meant: str) -> None:
    message = refused(typed, "3")

    assert repr(typed.split("=", maxsplit=1)[0]) in message
    assert repr(meant) in message
    assert "--help" in message


def test_flags_may_not_be_abbreviated() -> None:
    assert "--verb" in refused("--verb")


def test_a_word_that_belongs_to_no_flag_is_refused() -> None:
    assert "'cnn'" in refused("cnn")


@pytest.mark.parametrize("flag_without_value", ["--epochs", "--models", "--experiment"])
def test_a_flag_without_its_value_is_refused(flag_without_value: str) -> None:
    assert flag_without_value in refused(flag_without_value)


def test_an_unknown_key_is_refused_with_all_valid_ones_and_the_nearest(tmp_path: Path) -> None:
    file = preset(tmp_path, "epoch: 3")

    message = refused("--experiment", file)

    assert "'epoch'" in message
    assert file in message
    assert "did you mean 'epochs'" in message
    assert all(name in message for name in Options.model_fields)


NONSENSE = [
    ("epochs", "0"),
    ("epochs", "-3"),
    ("epochs", "2.5"),
    ("epochs", "many"),
    ("batch_size", "0"),
    ("batch_size", "-1"),
    ("lr", "-1"),
    ("lr", "0"),
    ("lr", "nan"),
    ("lr", "inf"),
    ("lr", "fast"),
    ("seeds", "-1"),
    ("seeds", "1.5"),
    ("seeds", str(2**31)),
    ("workers_per_job", "0"),
    ("cpus_per_worker", "0"),
    ("gpus_per_worker", "-1"),
    ("gpus_per_worker", "nan"),
    ("bn_mode", "frozen"),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_a_nonsense_value_is_refused_naming_the_flag(name: str, value: str) -> None:
    message = refused(flag(name), value)

    assert message.startswith(f"{flag(name)}: ")
    assert repr(value) in message


@pytest.mark.parametrize(("name", "value"), [*NONSENSE, ("lr", ".nan"), ("lr", ".inf"), ("epochs", "[1, 2]")])
def test_a_nonsense_value_in_a_preset_is_refused_naming_key_and_file(name: str, value: str, tmp_path: Path) -> None:
    file = preset(tmp_path, f"{name}: {value}")

    assert refused("--experiment", file).startswith(f"{name} in {file}: ")


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "seeds", "workers_per_job"])
def test_yes_and_no_are_no_numbers(name: str, tmp_path: Path) -> None:
    file = preset(tmp_path, f"{name}: yes")

    assert refused("--experiment", file).startswith(f"{name} in {file}: ")


def test_a_flag_that_overrides_the_preset_is_the_one_named(tmp_path: Path) -> None:
    assert refused("--experiment", preset(tmp_path, "epochs: 3"), "--epochs", "0").startswith("--epochs: ")


def test_all_wrong_values_are_named_at_once() -> None:
    message = refused("--epochs", "0", "--lr", "-1", "--batch-size", "0")

    assert all(name in message for name in ("--epochs", "--lr", "--batch-size"))


@pytest.mark.parametrize("gpus", ["0.5", "1.5"])
def test_a_part_of_a_gpu_is_refused_for_workers_that_train_together(gpus: str) -> None:
    message = refused("--gpus-per-worker", gpus, "--workers-per-job", "2")

    assert "--gpus-per-worker" in message
    assert "--workers-per-job" in message


@pytest.mark.parametrize(("gpus", "workers"), [("0.5", "1"), ("1", "2"), ("0", "2"), ("0", "1")])
def test_gpus_that_workers_can_share_out_are_allowed(gpus: str, workers: str) -> None:
    found = options("--gpus-per-worker", gpus, "--workers-per-job", workers)

    assert (found.gpus_per_worker, found.workers_per_job) == (float(gpus), int(workers))


@pytest.mark.parametrize("text", ["", "just words", "- epochs\n- 3", "42", "null"])
def test_a_preset_that_holds_no_keys_is_refused(text: str, tmp_path: Path) -> None:
    file = preset(tmp_path, text)

    message = refused("--experiment", file)

    assert file in message
    assert "option: value" in message


@pytest.mark.parametrize(
    "text",
    ["epochs: [1, 2", "epochs: 3\n\tlr: 1", "a: b: c", "x: &a [*b]", "x: \0", "epochs: 2026-13-45", "? [a]: 1"],
    ids=repr,
)
def test_a_preset_that_is_no_yaml_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    file = preset(tmp_path, text)

    message = refused("--experiment", file)

    assert file in message
    assert "\n" not in message


def test_a_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")

    assert missing in refused("--experiment", missing)
    assert str(tmp_path) in refused("--experiment", str(tmp_path))  # a folder


def test_a_preset_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_bytes("question: schön?".encode("latin-1"))

    assert str(file) in refused("--experiment", str(file))


def test_help_shows_every_flag_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks within a flag's text
    text = build_parser(Options, "bench", "A benchmark.").format_help()
    about = {part.split()[0]: " ".join(part.split()) for part in text.split("\n  --")[1:]}

    for name, field in Options.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        shown = about.get(flag(name).removeprefix("--"))
        if extra["group"] is None:
            assert shown is None, name
            continue
        assert shown is not None, name
        assert field.description in shown
        if field.default not in (None, False):
            default = field.default if isinstance(field.default, tuple) else (field.default,)
            assert f"(default: {' '.join(map(str, default))})" in shown, name


def test_help_shows_the_choices() -> None:
    assert "{eval,train}" in build_parser(Options, "bench", "A benchmark.").format_help()
