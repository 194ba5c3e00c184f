"""What every strategy promises, whatever its method: one contract, run over each of them."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Charter, Draft, Family, Method, Training
from commonroot.common.errors import ConfigError, OutsideCharter
from commonroot.common.manifest import Manifest, flatten, unflatten
from commonroot.strategies import STRATEGIES, LocalResult, Strategy, build, check_sealed, seal
from commonroot.strategies.averaging import mean_losses

METHODS = [
    Method(name="fedavg"),
    Method(name="fedavg", options={"head": "shared", "outputs": 3}),
    Method(name="fedavg", options={"head": "shared", "outputs": 3, "label_evidence": True}),
    Method(name="fedavg-ft"),
    Method(name="fedavg-ft", options={"head": "shared", "outputs": 1}),
    Method(name="fedper"),
    Method(name="fedper", options={"head_epochs": 2, "fine_tune_epochs": 0, "fine_tune_head_epochs": 0}),
    Method(name="fedrep"),
    Method(name="fedrep", options={"head_epochs": 5, "backbone_epochs": 1}),
    Method(name="fedavg", options={"server": "momentum", "server_beta1": 0.5}),
    Method(name="fedavg-ft", options={"server": "adam", "head": "shared", "outputs": 2}),
    Method(name="fedrep", options={"server": "yogi", "server_rate": 0.1}),
    Method(name="fedprox"),
    Method(name="feddbe"),
    Method(name="feddbe", options={"server": "adam", "server_rate": 50.0}),
    Method(name="feddbe", options={"pull": 0.0, "feature_bias": False, "private_norms": True}),
    Method(name="fedbn"),
    Method(name="ditto"),
    Method(name="ditto", options={"head": "shared", "outputs": 3}),
    Method(name="reptile"),
    Method(name="clustered"),
    Method(name="clustered", options={"head": "shared", "outputs": 3, "width": 4}),
    Method(name="clustered", options={"backbones": "declared", "second": "a, b, c", "common_rounds": 2}),
    Method(
        name="clustered", options={"backbones": "secret", "departments": 7, "common_rounds": 2, "server": "momentum"}
    ),
    Method(name="self-training", options={"outputs": 1}),
    Method(name="self-training", options={"outputs": 3, "trust": 0.5, "server": "momentum"}),
    Method(name="dann", options={"outputs": 1}),
    Method(name="dann", options={"outputs": 3, "trust": 1.0, "reach": 2.0}),
    Method(name="structure"),
    Method(name="local"),
]
#: Methods that need a backbone with norms, and those that share nothing.
NORMED, ALONE = {"fedbn"}, {"local", "structure"}
#: Methods that refuse families.
CLUSTERING = {"clustered"}
FAMILIES = (
    Family(name="digits", outputs=3, departments=("a", "b", "c", "d")),
    Family(name="signs", outputs=2, departments=("e", "f", "g")),
)


def backbone_of(method):
    if method.name in NORMED or "private_norms" in method.options:
        return BackboneSpec(family="resmlp", inputs=5, width=3, blocks=1)
    return BackboneSpec(inputs=5, widths=(4, 3))


def draft_of(method, **training):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=3,
        method=method,
        backbone=backbone_of(method),
        training=Training(weight_cap=100, **training),
    )


@pytest.fixture(params=METHODS, ids=lambda m: f"{m.name} {m.options or ''}".strip())
def draft(request):
    return draft_of(request.param)


def result_of(draft, strategy, state, seed, *, rows=25, size=0.1):
    random = np.random.default_rng(seed)
    shared = {
        name: (state[name] + random.normal(0, size, shape)).astype(np.float32)
        for name, shape in strategy.broadcast(draft)
    }
    shared |= {name: shared[name.removeprefix("second/")] for name in shared if name.startswith("second/")}
    centre = random.normal(size=draft.network.outputs).astype(np.float32) if strategy.form(draft).centre else None
    losses = float(random.uniform(0, 2)), float(random.uniform(0, 2))
    return LocalResult(shared, rows, *losses, centre, **adapting(draft, strategy, random))


def adapting(draft, strategy, random, scale=1.0):
    """What methods want in which departments without labels take part; nothing for the others."""
    if not strategy.form(draft).unlabelled:
        return {}
    shares = random.dirichlet(np.ones(strategy.labels))
    return {"seen": (scale * random.normal(size=(7, draft.network.outputs))).astype(np.float32), "shares": shares}


def averaged(draft, strategy):
    """Names of the tensors whose changes are summed."""
    return [term.name.removeprefix("update/") for term in strategy.terms(draft) if term.name.startswith("update/")]


def add(contributions):
    return {name: np.sum([c[name] for c in contributions], axis=0, dtype=np.float64) for name in contributions[0]}


def frozen_copy(arrays):
    held = {name: np.array(array) for name, array in arrays.items()}
    for array in held.values():
        array.flags.writeable = False
    return held


def test_every_installed_method_is_held_to_the_contract():
    assert {method.name for method in METHODS} == set(STRATEGIES)


def test_it_is_a_strategy(draft):
    assert isinstance(build(draft), Strategy)
    assert build(draft).name == draft.method.name


def test_inputs_are_never_written_to(draft):
    """Read-only arrays go in: a write would raise, and a view given back would stay read-only."""
    strategy = build(draft)
    state = frozen_copy(strategy.initial(draft))
    result = result_of(draft, strategy, state, 1)
    before = copy.deepcopy((state, result))
    terms = frozen_copy(strategy.contribute(draft, state, result))
    following = strategy.combine(draft, state, terms)
    for name, array in before[0].items():
        np.testing.assert_array_equal(state[name], array)
        assert not np.shares_memory(following[name], state[name])
    for name, array in before[1].shared.items():
        np.testing.assert_array_equal(result.shared[name], array)


def test_a_round_nobody_answered_leaves_the_state_as_it_was(draft):
    strategy = build(draft)
    state = strategy.initial(draft)
    nothing = {term.name: np.zeros(term.shape) for term in strategy.terms(draft)}
    following = strategy.combine(draft, state, nothing)
    assert following.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(following[name], array)
        assert following[name].dtype == np.float32
    assert mean_losses(draft, 0, nothing) == {}


def test_the_order_of_departments_does_not_matter(draft):
    strategy = build(draft)
    state = strategy.initial(draft)
    terms = [strategy.contribute(draft, state, result_of(draft, strategy, state, k, rows=9 * k + 1)) for k in range(5)]
    one = strategy.combine(draft, state, add(terms))
    other = strategy.combine(draft, state, add(terms[::-1]))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9)


def test_it_equals_the_weighted_mean_written_out(draft):
    """Weights √(4/100) = 0.2 → 13/64, √(16/100) = 0.4 → 26/64, 1, and for 400 rows 1 as well; in all 167/64."""
    strategy = build(draft)
    state = strategy.initial(draft)
    results = [result_of(draft, strategy, state, k, rows=rows) for k, rows in enumerate((4, 16, 100, 400))]
    following = strategy.combine(draft, state, add([strategy.contribute(draft, state, r) for r in results]))
    weights = (13 / 64, 26 / 64, 1.0, 1.0)
    expected, means = dict(state), {}
    for name in averaged(draft, strategy):
        changes = [r.shared[name].astype(np.float64) - state[name] for r in results]
        means[name] = sum(w * c for w, c in zip(weights, changes, strict=True)) * 64 / 167
    if means:
        expected |= strategy.stepped(state, means, clip=draft.training.update_clip)
    if results[0].centre is not None:
        expected["consensus/mean"] = sum(w * r.centre for w, r in zip(weights, results, strict=True)) * 64 / 167
        expected["consensus/known"] = np.ones(())
    if strategy.form(draft).unlabelled:
        shares = sum(w * r.shares for w, r in zip(weights, results, strict=True)) * 64 / 167
        expected["labels/share"] = shares  # and no critic: all of them have labels
    for name in state:
        np.testing.assert_allclose(following[name], expected[name], atol=1e-6)


def test_losses_are_weighted_means(draft):
    """weights 13/64 and 39/64, losses 1 and 2: (13·1 + 39·2)/52 = 1.75; held out 3 and 1: (39 + 39)/52 = 1.5"""
    strategy = build(draft)
    state = strategy.initial(draft)
    shared = {name: state[name] for name, _ in strategy.broadcast(draft)}
    centre = np.zeros(draft.network.outputs, np.float32)
    more = adapting(draft, strategy, np.random.default_rng(1))
    results = [LocalResult(shared, 4, 1.0, 3.0, centre, **more), LocalResult(shared, 36, 2.0, 1.0, centre, **more)]
    sums = add([strategy.contribute(draft, state, result) for result in results])
    assert mean_losses(draft, 0, sums) == pytest.approx({"loss": 1.75, "held_out": 1.5})
    seldom = draft.model_copy(update={"rounds": 9, "training": Training(held_out_every=5)})
    assert [version for version in range(9) if "held_out" in mean_losses(seldom, version, sums)] == [0, 5, 8]
    assert mean_losses(seldom, 1, sums) == pytest.approx({"loss": 1.75})


def test_a_state_restored_from_its_broadcast_goes_on_alike(draft):
    strategy = build(draft)
    state = strategy.initial(draft)
    shapes = strategy.broadcast(draft)
    restored = unflatten(flatten(state, shapes), shapes)
    assert restored.keys() == {name for name in state if not name.startswith("server/")}
    terms = strategy.contribute(draft, state, result_of(draft, strategy, state, 3))
    one, other = strategy.combine(draft, state, terms), strategy.combine(draft, restored, terms)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@given(
    which=st.sampled_from(METHODS),
    size=st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e30]),
    rows=st.integers(1, 10**9),
    loss=st.floats(0, 1e300),
    seed=st.integers(0, 2**16),
)
def test_every_term_is_within_its_bound_whatever_training_did(which, size, rows, loss, seed):
    draft = draft_of(which)
    strategy = build(draft)
    state = strategy.initial(draft)
    found = result_of(draft, strategy, state, seed, size=size)
    centre = None if found.centre is None else found.centre * np.float32(size)
    more = adapting(draft, strategy, np.random.default_rng(seed), min(size, 1e30))
    terms = strategy.contribute(draft, state, LocalResult(found.shared, rows, loss, loss, centre, **more))
    manifest = Manifest(strategy.terms(draft))
    for lane in ("fixed16", "fixed64"):
        manifest.pack(terms, lane)  # names, shapes, finite
    for term in manifest.terms:
        assert np.abs(terms[term.name]).max() <= term.bound


def test_one_department_moves_the_sum_by_the_clip_at_most(draft):
    strategy = build(draft)
    state = strategy.initial(draft)
    terms = strategy.contribute(draft, state, result_of(draft, strategy, state, 5, rows=10**6, size=1e3))
    for backbone in ("update/", "update/second/"):  # what is sent for one backbone; most methods have no other
        own = [
            name for name in terms if name.startswith(backbone) and name.count("second/") == backbone.count("second/")
        ]
        norm = np.sqrt(sum(np.square(terms[name]).sum() for name in own))
        assert norm <= draft.training.update_clip * (1 + 1e-9)


def test_no_private_name_is_in_any_term_or_broadcast(draft):
    """``Term`` itself refuses private names; here also nothing head-like unless the charter shares one."""
    strategy = build(draft)
    names = [name for name, _ in strategy.broadcast(draft)] + [term.name for term in strategy.terms(draft)]
    assert any("head" in name for name in names) == strategy.shares_head
    Manifest(strategy.terms(draft))


def test_a_norm_that_is_private_is_in_no_term_and_no_broadcast(draft):
    strategy = build(draft)
    names = [name for name, _ in strategy.broadcast(draft)] + [term.name for term in strategy.terms(draft)]
    assert strategy.form(draft).norms.isdisjoint(name.removeprefix("update/") for name in names)


def test_a_department_refuses_no_step_of_honest_rounds(draft):
    """However far the parts want to go: ten rounds of changes in one direction, clipped; and one lie beyond them."""
    strategy = build(draft)
    states = [strategy.initial(draft)]
    for seed in range(10):
        state = states[-1]
        shared = {name: state[name] + np.float32(40.0) for name, _ in strategy.broadcast(draft)}
        centre = np.full(draft.network.outputs, 1e9, np.float32)
        more = adapting(draft, strategy, np.random.default_rng(seed))
        terms = strategy.contribute(draft, state, LocalResult(shared, 1 + 30 * seed, 1.0, 1.0, centre, **more))
        states.append(strategy.combine(draft, state, terms))
    shapes = strategy.broadcast(draft)
    seen = [unflatten(flatten(state, shapes), shapes) for state in states]
    for version, received in enumerate(seen):
        strategy.check_received(draft, received, version, states[0], 0)
        for earlier in range(version):
            strategy.check_received(draft, received, version, seen[earlier], earlier)
    if draft.method.name not in ALONE:
        lie = {name: tensor + np.float32(30.0) for name, tensor in seen[1].items()}
        with pytest.raises(OutsideCharter):
            strategy.check_received(draft, lie, 1, states[0], 0)


def test_families_are_averaged_over_their_members_alone(draft):
    """a and b are of digits, e of signs, z of none: digits moves by (w_a·a + w_b·b) / (w_a + w_b), signs by e's change,
    the rest by all four's."""
    if draft.method.name in ALONE:
        pytest.skip("nothing is averaged")
    draft = draft.model_copy(update={"families": FAMILIES})
    if build(draft).shares_head or draft.method.name in CLUSTERING:
        with pytest.raises(ConfigError, match=r"families and a head that everybody shares|has no families"):
            seal(draft)
        return
    draft = draft.model_copy(update={"method": Method(name=draft.method.name)})
    rows = {"a": 1, "b": 6, "e": 25, "z": 25}
    strategy = build(draft)
    state, terms, changes, weights = strategy.initial(draft), {}, {}, {}
    for seed, name in enumerate(rows):
        one = strategy.as_department(name)
        result = result_of(draft, one, state, seed, rows=rows[name], size=0.01)
        terms[name] = one.contribute(draft, state, result)
        changes[name] = {tensor: result.shared[tensor].astype(np.float64) - state[tensor] for tensor in result.shared}
        weights[name] = float(terms[name]["weight"])
        assert one.form(draft).family == {"a": "digits", "b": "digits", "e": "signs", "z": None}[name]
    assert not any(terms["z"][f"update/family/{f}/{t}"].any() for f in ("digits", "signs") for t in ("weight", "bias"))
    assert float(terms["z"]["family/digits/share"]) == float(terms["a"]["family/signs/share"]) == 0.0
    following = strategy.combine(draft, state, add(list(terms.values())))
    for tensor, who in (
        ("family/digits/weight", "ab"),
        ("family/signs/bias", "e"),
        (averaged(draft, strategy)[0], "abez"),
    ):
        mean = sum(weights[n] * changes[n][tensor] for n in who) / sum(weights[n] for n in who)
        np.testing.assert_allclose(following[tensor], state[tensor] + strategy.rate * mean, atol=1e-6)


def test_a_family_of_which_nobody_came_stays_as_it_was(draft):
    if draft.method.name in ALONE | CLUSTERING or build(draft).shares_head:
        pytest.skip("no families")
    draft = draft.model_copy(update={"families": FAMILIES})
    strategy = build(draft)
    state = strategy.initial(draft)
    one = strategy.as_department("a")
    following = strategy.combine(draft, state, one.contribute(draft, state, result_of(draft, one, state, 1)))
    np.testing.assert_array_equal(following["family/signs/weight"], state["family/signs/weight"])
    assert following["family/digits/weight"].any()


def test_every_broadcast_tensor_is_in_the_first_state(draft):
    strategy = build(draft)
    state = strategy.initial(draft)
    for name, shape in strategy.broadcast(draft):
        assert state[name].shape == shape and state[name].dtype == np.float32


def test_its_charter_is_the_one_another_machine_derives(draft):
    charter = seal(draft)
    check_sealed(charter)
    again = Charter.model_validate_json(charter.model_dump_json())
    assert again.digest == charter.digest
    check_sealed(again)
