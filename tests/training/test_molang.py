"""MoLang: what is hidden and told, texts that are trained along, rotations, and what goes wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from dataengine.core.errors import TrainingError, WeightsError
from tests.support import motion_files
from tests.support.format_files import BVH, write_bvh
from tests.support.method_runs import check_kills, check_two_processes, train_double
from tests.support.motions import CLASSES, Motions
from training import config, create_backbone, create_method
from training.data.formats import open_dataset, open_datasets
from training.data.loader import DataLoader
from training.distributed import unit
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate import minilm
from training.methods.bert import Bert, BertText, find_folder
from training.methods.molang import MaskedViews, Masking
from training.methods.text_network import TextNetwork
from training.runs import zero_shot
from training.runs.class_text import ClassText
from training.runs.embed import embed
from training.runs.model_card import card
from training.runs.report import open_split_of
from training.runs.run import load_run
from training.runs.train import train
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

TEXTS = tuple((label,) for label in CLASSES)
WORDS = ("a", "person", "waves", "left", "right", "squats", "walks", "wave", "squat", "walk")
SIZES = {"vocabulary": len(WORDS) + 1, "positions": 12, "width": 16, "layers": 2, "heads": 2, "hidden": 24}


def written(folder: Path) -> Path:
    """A small BERT as transformers saves it, its norms under their old names, with heads that are not needed."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = Bert(**SIZES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for key, value in network.state_dict().items():
        name = next((key.replace(new, former) for new, former in old.items() if key.endswith(new)), key)
        state[f"bert.{name}"] = value.contiguous()
    state |= {"cls.predictions.bias": torch.zeros(3), "bert.pooler.dense.bias": torch.zeros(16)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": SIZES["heads"]}))
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def method(name: str = "mmp_transformer", text: TextNetwork | None = None, people: int = 1, **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "hidden": 16, "dropout": 0.0, "bottleneck_after": 1}
    sizes = {**sizes, "joint_width": 4} if name == "mmp_transformer" else {"channels_base": 4, "blocks": (1, 1)}
    backbone = create_backbone(name, 0, "body13", 2, people=people, **sizes)
    return create_method("molang", backbone=backbone, text=text, **{"masking": {"longest": 6}, **options})


def grams() -> TextNetwork:
    torch.manual_seed(1)
    return TextNetwork.create("ngrams", TEXTS, width=8)


def batch_of(made, clips: int = 8, **preprocess):
    transform = made.sample_transform(Preprocess("body13", **preprocess), View(16, "none", "body13"))
    return next(iter(DataLoader(Motions(clips, 1), transform, clips, seed=1)))


def test_frames_in_a_row_become_noise_of_the_size_of_the_motion():
    views = MaskedViews(Preprocess("body13"), View(16, "none"), Masking(5))
    array = np.random.default_rng(0).normal(3, [1, 20], (2, 40, 9, 2)).astype(np.float32)
    array[1] = 0
    lengths, noise = set(), []
    for seed in range(200):
        masked, hidden = views.hide(array, np.random.default_rng(seed))
        rows = np.flatnonzero(hidden)
        lengths.add(len(rows))
        assert (np.diff(rows) == 1).all() and np.array_equal(masked[:, ~hidden], array[:, ~hidden])
        assert not masked[1].any()
        noise.append(masked[0, hidden].reshape(-1, 2))
    assert lengths == {1, 2, 3, 4, 5}
    spread = np.concatenate(noise)
    np.testing.assert_allclose(spread.std(0), array[0].std((0, 1)), rtol=0.05)
    np.testing.assert_allclose(spread.mean(0), 0, atol=0.5)
    short, hidden = views.hide(array[:, :1], np.random.default_rng(0))
    assert hidden.sum() == 1 and short.shape == (2, 1, 9, 2)


@pytest.mark.parametrize("name", ["mmp_transformer", "unik"])
def test_a_network_that_tells_all_frames_has_no_loss(name):
    made = method(name, reconstruction=2.0) if name == "mmp_transformer" else None
    if made is None:
        backbone = create_backbone("unik", 0, "body13", 2, people=2, channels_base=4)
        made = create_method("molang", backbone=backbone, masking={"only": True})
    batch = batch_of(made, people=2 if name == "unik" else 1, mask=True)
    with torch.no_grad():
        made.decoder.weight.zero_()
        made.decoder.bias.zero_()
    outcome = made.loss(batch)
    error = batch["motion"].abs().mean((1, 3))
    counted = batch["motion_mask"] & (batch["hidden"][..., None] if name == "unik" else True)
    torch.testing.assert_close(outcome.parts["reconstruction"], error[counted].mean())
    torch.testing.assert_close(outcome.loss, (10.0 if name == "unik" else 2.0) * error[counted].mean())
    zero = made.loss({**batch, "motion": torch.zeros_like(batch["motion"])})
    assert float(zero.loss.detach()) == 0


def test_equal_texts_are_no_negatives_and_clips_without_one_take_no_part():
    made = method(text=grams(), reconstruction=0.0, first_temperature=0.2).eval()
    batch = batch_of(made)
    batch["label"] = torch.tensor([0, 1, 2, 3, 0, 1, -1, 2])
    outcome = made.loss(batch)
    with torch.no_grad():
        motions = made.embed_motion(batch["masked"])
        words = made.embed_texts([CLASSES[label] for label in batch["label"]])
    logits, total = (motions @ words.T / 0.2).double(), 0.0
    kept = [n for n in range(8) if n != 6]
    for n in kept:
        others = [k for k in kept if k == n or batch["label"][k] != batch["label"][n]]
        for rows in (logits, logits.T):
            total += float(torch.logsumexp(rows[n, others], 0) - rows[n, n]) / len(kept)
    assert float(outcome.loss.detach()) == pytest.approx(total, rel=1e-5)
    printed = method(text=grams(), reconstruction=0.0, first_temperature=0.2, variant="paper").eval()
    assert 0 < float(printed.loss(batch).loss.detach()) < 2, "two probabilities"


def test_a_stored_text_comes_before_those_of_the_class():
    made = method(text=TextNetwork.create("ngrams", [("a", "b"), ("c",), (), ("d",)], width=8), clip_text="caption")
    assert made.needs({"text": "ngrams", "clip_text": "caption"}).features == ("caption",)
    batch = {
        "text": ["said", "", "", ""],
        "label": torch.tensor([0, 0, 2, -1]),
        "prompt": torch.tensor([0.9, 0.9, 0.9, 0.9]),
    }
    assert made._texts_of(made.text, batch) == ["said", "b", "", ""]


def test_the_published_tensors_of_minilm_give_what_its_own_reader_gives():
    """On drawn weights of its sizes, of few words."""
    network = Bert(20, 32, minilm.WIDTH, minilm.LAYERS, minilm.HEADS, 64)
    ids = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = minilm.forward(dict(network.state_dict()), ids)
        found = network(ids, torch.ones(3, 7, dtype=torch.bool))
        filled = torch.cat([ids, torch.zeros(3, 2, dtype=torch.long)], 1)
        padded = network(filled, torch.arange(9).expand(3, 9) < 7)[:, :7]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(padded, wanted, rtol=1e-4, atol=1e-5)


def test_a_bert_of_transformers_is_read_and_gives_the_same_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = BertText.load("bert", str(written(tmp_path / "bert")))
    theirs = transformers.BertConfig(
        vocab_size=SIZES["vocabulary"],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    reference = transformers.BertModel(theirs, add_pooling_layer=False).eval()
    reference.load_state_dict(made.bert.state_dict(), strict=False)
    ids, mask = made.tokens(["a person waves left", "walk"])
    assert mask.sum(1).tolist() == [4, 1]
    with torch.no_grad():
        wanted = reference(ids, mask).last_hidden_state
        torch.testing.assert_close(made.bert(ids, mask)[mask], wanted[mask], rtol=1e-5, atol=1e-6)
    (tmp_path / "bert" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds no BERT that can be read"):
        BertText.load("bert", str(tmp_path / "bert"))
    with pytest.raises(WeightsError, match=r"bert-base-uncased is not here: want model.safetensors, tokenizer.json"):
        find_folder(str(tmp_path / "absent"))


def test_a_checkpoint_holds_the_text_encoder_and_its_tokenizer(tmp_path):
    network = TextNetwork.create("bert", TEXTS, folder=str(written(tmp_path / "bert")))
    wanted = network.encode(["a person waves left", "walk"])
    (tmp_path / "bert" / "model.safetensors").unlink()
    again = TextNetwork.of_facts(json.loads(json.dumps(network.facts)))
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.encode(["a person waves left", "walk"]), wanted)
    torch.testing.assert_close(unit(wanted), wanted)
    assert again.class_texts == TEXTS


def test_the_text_tower_of_open_clip_is_trained_along(tmp_path):
    library = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    from dataengine import features

    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 16, "patch_size": 16}
    words = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    settings = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": words}
    torch.manual_seed(0)
    save_file(library.CLIP(**settings).state_dict(), tmp_path / "open_clip_model.safetensors")
    means = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": means}))
    network = TextNetwork.create("open_clip", TEXTS, model=str(tmp_path))
    texts = ["walk to the left", "squat"]
    wanted = features.create("open_clip", model=str(tmp_path)).encode_text(texts)
    np.testing.assert_allclose(network.encode(texts).numpy(), wanted, atol=1e-5)
    network(texts)[0, 0].backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle and not any("visual" in name for name, _ in network.named_parameters())
    again = TextNetwork.of_facts(json.loads(json.dumps(network.facts)))
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.encode(texts), network.encode(texts))


@pytest.mark.parametrize("name", ["molang", pytest.param("molang_small", marks=pytest.mark.slow)])
def test_both_stages_of_committed_configurations_and_what_is_found_by_text(name, tmp_path):
    data = motion_files.write(tmp_path / "motions.npz", 24, video=0)
    small = {"run.epochs": 1, "run.min_steps": 0, "run.batch": 8, "run.tensorboard": "false", "run.floors": "false"}
    small |= {
        "view.frames": 16,
        "backbone.width": 16,
        "backbone.depth": 2,
        "backbone.heads": 2,
        "run.precision": '"32-true"',
    }
    small |= {"backbone.bottleneck_after": 1, "backbone.hidden": 16, "run.by_clips": "[]"}
    given = [f"{key}={value}" for key, value in small.items()]
    first = config.load(name, [*given, 'method.text=""']).on([str(data)])
    train(first, tmp_path / "first")
    bert = written(tmp_path / "bert")
    text = f'method.text={{encoder="bert", prompts="label", folder="{bert}"}}'
    train(config.load(name, [*given, text, f'run.start="{tmp_path / "first"}"']).on([str(data)]), tmp_path / "second")
    for file in bert.iterdir():
        file.unlink()
    assert (tmp_path / "second" / "text.safetensors").is_file()
    run = load_run(tmp_path / "second")
    assert run.method.modalities == ("text",) and load_run(tmp_path / "first").method.modalities == ()
    test = open_split_of(run, (), (), "val")
    tuned = config.finetuning(str(tmp_path / "second"), None, ["run.epochs=1"])
    assert tuned.method.name == "supervised" and not tuned.optim.groups
    assert any(one.name == "classifier" for one in train(tuned, tmp_path / "tuned").results)
    report = zero_shot.retrieve(run, test)
    assert {one.name for one in report.results} == {
        "motion to text", "text to motion", "4-way, text to motion", "4-way, motion to text"
    }  # fmt: skip
    for stage, columns in (("first", {"feature"}), ("second", {"feature", "projection"})):
        table = embed(load_run(tmp_path / stage), test, tmp_path / f"{stage}.parquet")
        assert columns == set(pq.read_schema(table).names) - {"clip_id", "label", "split", "reason"}
    told = card(run, tmp_path / "card", "CC-BY-4.0").read_text()
    assert "Learnt with the method `molang` in" in told and "Masked motion prediction" in told and str(bert) not in told
    named = zero_shot.zeroshot(run, test)
    assert len(named.results) == 1 and 0 <= named.results[0].value <= 1
    margins = zero_shot.text_margins(run, test)
    assert margins.shape == (len(test[0]),) and np.mean(margins > 0) == pytest.approx(named.results[0].value)
    with pytest.raises(TrainingError, match="learnt its own text encoder, from bert"):
        zero_shot.retrieve(run, test, text="ngrams")
    with pytest.raises(TrainingError, match="learnt beside neither texts"):
        zero_shot.retrieve(load_run(tmp_path / "first"), test)


def test_rotations_are_relative_to_the_parent_and_are_trained_on(tmp_path):
    (tmp_path / "a.bvh").write_text(BVH.format(frames=1, rows="5 6 7  90 0 0  0 0 90  0 0 0"))
    clip = open_dataset(tmp_path / "a.bvh", rotations=True).read([0])[0]
    x, y, z = np.eye(3)
    wanted = [[y, -x], [-z, y], [x, y]]  # about z; about y; not at all: where x and y go
    np.testing.assert_allclose(clip.keypoints[0, 0].reshape(3, 2, 3), wanted, atol=1e-6)
    folder = write_bvh(tmp_path / "many", 6, frames=9)
    data = open_datasets([str(folder)], rotations=True)
    assert data[0].fingerprint != open_dataset(folder).fingerprint
    preprocess = Preprocess(data[0].skeleton, normalise="none")
    sizes = {"width": 16, "depth": 1, "heads": 2, "hidden": 16, "dropout": 0.0, "bottleneck_after": 1, "people": 1}
    backbone = create_backbone("mmp_transformer", 0, data[0].skeleton, 6, **sizes, joint_width=4)
    made = create_method("molang", backbone=backbone)
    steps = [{"name": "pad", "how": "zero"}]
    loader = DataLoader(data, made.sample_transform(preprocess, View(12, steps)), 6)
    history = fit(made, loader, TrainSettings(epochs=40, optim=OptimSettings(lr=0.01, optimizer="adam")))
    assert history.losses[-1] < 0.7 * history.losses[0]
    with pytest.raises(TrainingError, match=r"has rotations, not coordinates: set preprocess.normalise to none"):
        Preprocess(data[0].skeleton, normalise="body")(data[0].read([0])[0])
    with pytest.raises(TrainingError, match=r"given 6: .*rotations take steps on time alone"):
        next(iter(DataLoader(data, made.sample_transform(preprocess, View(12, "weak")), 6)))


def test_what_does_not_go_together_is_said():
    for options, words in (
        ({"reconstruction": 0.0}, "nothing is left to learn"),
        ({"reconstruction": -1.0}, "reconstruction -1.0"),
        ({"clip_text": "caption"}, "has no effect without text"),
        ({"masking": {"longest": 0}}, "masking.longest 0"),
        ({"text": "minilm"}, "in Python give TextNetwork.create"),
    ):
        with pytest.raises(TrainingError, match=words):
            method(**options)
    with pytest.raises(TrainingError, match="first stage, without texts"):
        method().embed_texts(["walk"])
    with pytest.raises(TrainingError, match=r"no text encoder 'mini' is trained along \(did you mean 'minilm'"):
        TextNetwork.create("mini")
    with pytest.raises(TrainingError, match="text encoder ngrams has no option 'folder'"):
        TextNetwork.create("ngrams", folder="x")
    with pytest.raises(TrainingError, match="unknown text encoder 'viclip_text'"):
        ClassText.of("viclip_text", trained=True)
    assert math.isclose(float(method(text=grams())._temperature().detach()), 0.07, rel_tol=1e-6)


def run(name: str, folder: Path, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0) -> None:
    """A run of the second stage in double precision, as one of `world` processes."""
    made = method(text=TextNetwork.create("bert", TEXTS, folder=name), reconstruction=2.0).double()
    transform = made.sample_transform(Preprocess("body13"), View(16, "weak", "body13"))
    train_double(made, transform, Motions(48, 1), 16, folder, fabric, world, epochs, save)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_are_one(tmp_path):
    check_two_processes(__name__, run, [str(written(tmp_path / "bert"))], tmp_path)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_it_goes_on_bit_for_bit(tmp_path):
    check_kills(__name__, str(written(tmp_path / "bert")), tmp_path)
