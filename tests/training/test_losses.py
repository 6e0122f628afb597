"""Contrastive losses against slow loops and the golden numbers, and what printed forms do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.distributed import unit
from training.methods.losses import batch_info_nce, info_nce, queue_info_nce, triplet, two_view_info_nce

GOLDEN = Path(__file__).parents[1] / "golden" / "infonce.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def whole(golden, temperature):
    """Logits, and which are positive, with the own key first."""
    logits = (
        torch.cat([(golden["q"] * golden["k"]).sum(1, keepdim=True), golden["q"] @ golden["queue"].T], 1) / temperature
    )
    return logits, torch.cat([torch.ones(6, 1, dtype=torch.bool), golden["positive"]], 1)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_forms_equal_the_golden_numbers(golden, temperature):
    logits, positive = whole(golden, temperature)
    alone = torch.zeros_like(positive)
    alone[:, 0] = True
    each = info_nce(logits, alone)
    torch.testing.assert_close(each, golden[f"infonce_each_T{temperature}"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        queue_info_nce(golden["q"], golden["k"], golden["queue"], temperature), each, rtol=1e-12, atol=0
    )
    for form, name in (
        ("sum", "multi_sum_inside_log"),
        ("each", "multi_mean_ce"),
        ("alone", "multi_mean_ce_negatives_only"),
    ):
        loss = info_nce(logits, positive, form=form).mean()
        torch.testing.assert_close(loss, golden[f"{name}_T{temperature}"], rtol=1e-10, atol=1e-12)
    rows, columns = batch_info_nce(golden["q"], golden["k"], temperature)
    torch.testing.assert_close(rows.mean(), golden[f"clip_rows_T{temperature}"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(columns.mean(), golden[f"clip_columns_T{temperature}"], rtol=1e-10, atol=1e-14)
    both = two_view_info_nce(golden["q"], golden["k"], temperature).mean()
    torch.testing.assert_close(both, golden[f"two_view_T{temperature}"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("form", ["sum", "each"])
def test_gradients_equal_the_golden_numbers(golden, form):
    q = golden["q"].clone().requires_grad_()
    name = {"sum": "multi_sum_inside_log", "each": "multi_mean_ce"}[form]
    logits, positive = whole({**golden, "q": q}, 0.07)
    info_nce(logits, positive, form=form).mean().backward()
    torch.testing.assert_close(q.grad, golden[f"{name}_grad_q_T0.07"], rtol=1e-9, atol=1e-11)


def test_known_entries_take_no_part(golden):
    known = torch.zeros(6, 40, dtype=torch.bool)
    known[:, 10:] = True
    left = queue_info_nce(golden["q"], golden["k"], golden["queue"][:10], 0.1)
    torch.testing.assert_close(queue_info_nce(golden["q"], golden["k"], golden["queue"], 0.1, known), left)
    nobody = queue_info_nce(golden["q"], golden["k"], golden["queue"], 0.1, torch.ones_like(known))
    torch.testing.assert_close(nobody, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_printed_denominator_has_no_lower_bound():
    """Thesis, equations 4.6 and 6.3: the better the pair, the further below zero."""
    logits = torch.tensor([[1 / 0.1, 0.0, 0.0], [1 / 0.01, 0.0, 0.0]])
    positive = torch.tensor([[True, False, False]] * 2)
    paper, standard = info_nce(logits, positive, form="paper"), info_nce(logits, positive)
    assert paper[1] < paper[0] < -9 and (standard >= 0).all()


def test_anchors_without_a_positive_count_nothing():
    logits = torch.randn(3, 5, requires_grad=True)
    for form in ("sum", "each", "alone", "paper"):
        each = info_nce(logits, torch.zeros(3, 5, dtype=torch.bool), form=form)
        assert (each == 0).all()
        each.sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_triplets_pull_as_meant_and_push_as_printed():
    anchor, positive, negative = (unit(torch.randn(8, 4, generator=torch.Generator().manual_seed(k))) for k in range(3))
    positive.requires_grad_()
    near = torch.linalg.vector_norm(anchor - positive, dim=1).sum()
    (towards,) = torch.autograd.grad(near, positive)
    for inverted, sign in ((False, 1), (True, -1)):
        (found,) = torch.autograd.grad(triplet(anchor, positive, negative, 10.0, inverted).sum(), positive)
        torch.testing.assert_close(found, sign * towards)
