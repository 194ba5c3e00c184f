"""What each method trains, worked rounds by hand, and what the registry refuses."""

import numpy as np
import pytest

from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, TermSpec, Training
from commonroot.common.errors import ConfigError, OutsideCharter
from commonroot.strategies import LocalResult, Phase, build, check_sealed, seal
from commonroot.strategies.averaging import element_bound
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS, COMMON_HEAD_WEIGHT

BOTH, HEAD, BACKBONE = frozenset({"backbone", "head"}), frozenset({"head"}), frozenset({"backbone"})


def draft_of(name, *, clip=5.0, cap=90, **options):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=3,
        method=Method(name=name, options=options),
        backbone=BackboneSpec(inputs=1, widths=(1,)),
        training=Training(weight_cap=cap, update_clip=clip),
    )


def test_two_departments_worked_by_hand():
    """rows 10 and 90 of a cap of 160: weights 1/4 and 3/4, so as 1 to 3; changes 2 and 4: mean (1·2 + 3·4)/4 = 3.5"""
    draft = draft_of("fedper", clip=100.0, cap=160)
    strategy = build(draft)
    state = {"layers.0.weight": np.array([[1.0]], np.float32), "layers.0.bias": np.array([0.0], np.float32)}
    sums = {}
    for rows, change in ((10, 2.0), (90, 4.0)):
        shared = {name: (tensor + change).astype(np.float32) for name, tensor in state.items()}
        for name, value in strategy.contribute(draft, state, LocalResult(shared, rows, 1.0, 1.0)).items():
            sums[name] = sums.get(name, 0.0) + value
    following = strategy.combine(draft, state, sums)
    assert following["layers.0.weight"].item() == pytest.approx(4.5)
    assert following["layers.0.bias"].item() == pytest.approx(3.5)


def test_a_change_is_clipped_jointly_over_all_tensors():
    """change (3, 4) has length 5; clipped to 1 it is (0.6, 0.8)"""
    draft = draft_of("fedavg", clip=1.0)
    state = {"layers.0.weight": np.zeros((1, 1), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    shared = {"layers.0.weight": np.full((1, 1), 3, np.float32), "layers.0.bias": np.full(1, 4, np.float32)}
    terms = build(draft).contribute(draft, state, LocalResult(shared, 90, 1.0, 1.0))
    assert terms["update/layers.0.weight"].item() == pytest.approx(0.6)
    assert terms["update/layers.0.bias"].item() == pytest.approx(0.8)


def test_the_bound_of_an_element_gives_up_one_in_64_at_most():
    """C = 5: a tensor of 64 elements or fewer keeps the bound 5, one of 10,000 gets 8·5/100 = 0.4"""
    draft = draft_of("fedavg")
    assert element_bound(draft, 1) == element_bound(draft, 64) == 5.0
    assert element_bound(draft, 10_000) == pytest.approx(0.4)
    # the worst case: as many elements as the norm permits, all at the bound
    assert (5.0 / element_bound(draft, 10_000)) ** 2 <= 10_000 / 64 + 1e-9


def test_an_element_beyond_its_bound_is_cut_to_it():
    """C = 5 all in one of 10,000 elements: the bound 0.4 holds there, and nothing else moves"""
    backbone = BackboneSpec(inputs=100, widths=(100,))
    draft = draft_of("fedper").model_copy(update={"backbone": backbone})
    strategy = build(draft)
    state = strategy.initial(draft)
    shared = {name: tensor.copy() for name, tensor in state.items()}
    shared["layers.0.weight"][3, 7] += 5.0
    terms = strategy.contribute(draft, state, LocalResult(shared, 90, 1.0, 1.0))
    expected = np.zeros((100, 100))
    expected[3, 7] = 0.4
    np.testing.assert_allclose(terms["update/layers.0.weight"], expected, atol=1e-6)


def test_fedper_trains_both_parts_at_once():
    draft = draft_of("fedper", backbone_epochs=4)
    assert build(draft).plan(draft) == (Phase(parts=BOTH, epochs=4),)


def test_fedrep_trains_the_head_first_and_then_the_backbone_under_it():
    draft = draft_of("fedrep", head_epochs=5, backbone_epochs=2)
    assert build(draft).plan(draft) == (Phase(parts=HEAD, epochs=5), Phase(parts=BACKBONE, epochs=2))


def test_fedrep_made_simultaneous_is_fedper():
    rep = draft_of("fedrep", head_epochs=0, alternating=False)
    per = draft_of("fedper")
    assert build(rep).plan(rep) == build(per).plan(per)
    assert build(rep).finish(rep) == build(per).finish(per)


def test_fine_tuning_fits_the_head_before_everything_and_holds_the_backbone():
    draft = draft_of("fedper", fine_tune_head_epochs=6, fine_tune_epochs=7, fine_tune_rate=0.5, anchor=0.2)
    assert build(draft).finish(draft) == (
        Phase(parts=HEAD, epochs=6),
        Phase(parts=BOTH, epochs=7, rate=0.5, anchor=0.2),
    )


def test_fedavg_ends_with_the_common_model_and_fedavg_ft_tunes_it():
    plain, tuned = draft_of("fedavg"), draft_of("fedavg-ft", fine_tune_epochs=3)
    assert build(plain).finish(plain) == ()
    assert build(plain).plan(plain) == build(tuned).plan(tuned) == (Phase(parts=BOTH, epochs=3),)
    assert [phase.epochs for phase in build(tuned).finish(tuned)] == [3]


def test_a_shared_head_travels_under_its_own_name():
    draft = draft_of("fedavg", head="shared", outputs=7)
    names = dict(build(draft).broadcast(draft))
    assert names[COMMON_HEAD_WEIGHT] == (7, 1) and names[COMMON_HEAD_BIAS] == (7,)
    assert f"update/{COMMON_HEAD_WEIGHT}" in {term.name for term in build(draft).terms(draft)}


def test_local_sends_nothing_trained_and_moves_nothing():
    draft = draft_of("local")
    strategy = build(draft)
    assert [term.name for term in strategy.terms(draft)] == ["weight", "loss", "held_out"]
    assert strategy.plan(draft) == () and strategy.finish(draft) == ()


def test_an_unknown_method_gets_its_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'fedper'"):
        build(draft_of("fedpr"))


def test_a_method_like_no_other_gets_the_list():
    with pytest.raises(
        ConfigError, match=r"known: als, ditto, fedavg, fedavg-ft, fedbn, feddbe, .*, statistics, structure"
    ):
        build(draft_of("zzz"))


def test_every_wrong_option_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        build(draft_of("fedper", head_epoch=1, anchor=-1.0, alternating=1))
    text = str(caught.value)
    assert "3 wrong option(s)" in text and "did you mean 'head_epochs'" in text
    assert "anchor" in text and "alternating" in text


@pytest.mark.parametrize("options", [{"head": "shared"}, {"outputs": 3}, {"head": "private", "outputs": 3}])
def test_outputs_belong_to_a_shared_head(options):
    with pytest.raises(ConfigError, match="outputs is needed"):
        build(draft_of("fedavg", **options))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: (*t, TermSpec(name="rows_seen", shape=(), lane="fixed64", bound=1)), id="one more term"),
        pytest.param(lambda t: t[:-1], id="one fewer"),
        pytest.param(lambda t: (t[0].model_copy(update={"bound": 99.0}), *t[1:]), id="a wider bound"),
        pytest.param(lambda t: (t[1], t[0], *t[2:]), id="another order"),
    ],
)
def test_a_charter_whose_terms_the_method_does_not_need_is_refused(change):
    charter = seal(draft_of("fedper"))
    with pytest.raises(OutsideCharter, match="terms"):
        check_sealed(charter.model_copy(update={"terms": change(charter.terms)}))


def test_a_charter_that_broadcasts_something_else_is_refused():
    charter = seal(draft_of("fedper"))
    with pytest.raises(OutsideCharter, match="broadcast"):
        check_sealed(charter.model_copy(update={"broadcast": (*charter.broadcast, ("layers.9.bias", (4,)))}))


def test_a_charter_sealed_under_one_method_is_refused_under_another():
    charter = seal(draft_of("local"))
    with pytest.raises(OutsideCharter):
        check_sealed(charter.model_copy(update={"method": Method(name="fedper")}))
