"""``department serve`` over real sockets: what is wrong is named, and nothing of a row is logged."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import threading
import time

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commonroot.client.data import Features, ImageInput
from commonroot.client.models import Model
from commonroot.client.out.guards import is_loopback, read_token
from commonroot.client.out.requests import request_model, table_of
from commonroot.client.out.server import make_server
from commonroot.client.predicting import chosen_predictor
from commonroot.client.predictor import Predictor
from commonroot.client.tables.images import Image
from commonroot.client.tasks import Binary
from commonroot.common.errors import ConfigError

TOKEN = "correct-horse-battery-staple"
ROW = {"age": 71, "ward": "south", "admitted": "2024-03-01", "note": "frail needs care"}


@contextlib.contextmanager
def running(root, **options):
    """A server in a thread on a free port of this machine, and a client of it."""
    settings = {"host": "127.0.0.1", "port": 0, "token_file": None, "rows": 50, "megabytes": 1} | options
    server, _ = make_server(root, **settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client(stays):
    with running(stays[0]) as found:
        yield found


def refused(response, status):
    """The problem document of an answer."""
    assert response.status_code in (status if isinstance(status, tuple) else (status,)), response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    found = response.json()
    assert found["status"] == response.status_code and found["title"] and found["detail"]
    return found


def test_it_says_that_it_answers_and_what_it_is(client, stays):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/model").json()["charter"]["hash"] == stays[1]


def test_openapi_shows_the_columns_that_this_model_reads(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert list(schemas["Row"]["properties"]) == schemas["Row"]["required"] == ["age", "ward", "admitted", "note"]
    assert "number" in schemas["Row"]["properties"]["age"]["description"]


def test_rows_and_columns_are_predicted_as_the_department_predicts_them(client, stays, new):
    frame = pl.read_csv(new)
    expected = chosen_predictor(stays[0]).predict_file(new)
    columns = frame.drop("id").to_dict(as_series=False)
    rows = frame.drop("id").to_dicts()
    for body in ({"rows": rows}, {"columns": columns}):
        found = client.post("/predict", json=body).json()
        assert found["rows"] == 40 and list(found["predictions"]) == list(expected)
        assert found["predictions"]["class"] == expected["class"].tolist()
        np.testing.assert_allclose(found["predictions"]["probability of long"], expected["probability of long"])


def test_a_gap_and_an_unseen_value_are_predicted(client):
    body = {"rows": [ROW | {"age": None, "ward": "elsewhere", "admitted": None, "note": None}]}
    assert client.post("/predict", json=body).json()["rows"] == 1
    assert client.post("/predict", json={"rows": []}).json()["rows"] == 0


def test_a_file_comes_back_as_a_file_with_what_was_to_be_kept(client, stays, new):
    expected = chosen_predictor(stays[0]).predict_file(new)["class"].tolist()
    answer = client.post("/predict/batch?keep=id", content=new.read_bytes(), headers={"content-type": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    found = pl.read_csv(answer.content)
    assert found["class"].to_list() == expected and found["id"][0] == "stay-0"
    packed = io.BytesIO()
    pl.read_csv(new).write_parquet(packed)
    headers = {"content-type": "application/vnd.apache.parquet"}
    answer = client.post("/predict/batch", content=packed.getvalue(), headers=headers)
    assert pl.read_parquet(answer.content)["class"].to_list() == expected


@pytest.mark.parametrize(
    ("body", "row", "column"),
    [
        ({"rows": [ROW, ROW | {"age": "old-and-grey"}]}, 2, "age"),
        ({"rows": [{"ward": "south", "admitted": None, "note": "x"}]}, 1, "age"),
        ({"rows": [ROW | {"ward": ["south"]}]}, 1, "ward"),
        ({"rows": [ROW | {"note": 7}]}, 1, "note"),
        ({"columns": {name: [value] for name, value in ROW.items()} | {"age": [1, "old-and-grey"]}}, 2, "age"),
    ],
    ids=["text for a number", "a missing column", "a list", "a number for text", "in columns"],
)
def test_a_wrong_cell_is_named_by_row_and_column_and_not_repeated(client, body, row, column):
    answer = client.post("/predict", json=body)
    errors = refused(answer, 422)["errors"]
    assert {(one.get("row"), one["column"]) for one in errors} == {(row, column)}
    assert "grey" not in answer.text and "south" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rows": None},
        {"rows": [ROW], "columns": {name: [value] for name, value in ROW.items()}},
        {"rows": [ROW | {"shoe size": 43}]},
        {"rows": ROW},
        {"columns": {name: [value] for name, value in ROW.items()} | {"age": [1, 2]}},
        [ROW],
        {"rows": [ROW | {"age": 1e300}]},
        {"rows": [ROW] * 51},
    ],
    ids=["nothing", "null", "both", "extra column", "no list", "ragged", "bare list", "huge", "too many"],
)
def test_a_request_of_another_form_is_refused(client, body):
    refused(client.post("/predict", json=body), 422)


def test_infinity_and_what_is_no_json_are_refused(client):
    headers = {"content-type": "application/json"}
    for text in ('{"rows": [{"age": Infinity}]}', "{", "", "\xff", '{"rows":' + "[" * 5000):
        refused(client.post("/predict", content=text.encode("latin-1"), headers=headers), (400, 422))


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"age,ward\n1,a\n", "text/csv", 422),
        (b"age,ward,admitted,note\nold,a,2024-01-01,x\n", "text/csv", 422),
        (b"age,ward,admitted,note\n1,a\n", "text/csv", 422),
        (b"\xff\xfe\x00", "text/csv", 422),
        (b"", "text/csv", 422),
        (b"PAR1 no such thing", "application/vnd.apache.parquet", 422),
        (b"{}", "application/json", 415),
        (b"x" * ((1 << 20) + 1), "text/csv", 413),
    ],
    ids=["missing columns", "wrong cell", "ragged", "no text", "empty", "no parquet", "no table", "too large"],
)
def test_a_broken_upload_is_one_problem(client, content, kind, status):
    found = refused(client.post("/predict/batch", content=content, headers={"content-type": kind}), status)
    assert "Traceback" not in json.dumps(found)


def test_an_upload_without_a_length_is_counted_as_it_comes(client):
    def stream():
        for _ in range(40):
            yield b"x" * (1 << 15)

    answer = client.post("/predict/batch", content=stream(), headers={"content-type": "text/csv"})
    refused(answer, 413)
    assert client.get("/health").status_code == 200


def test_unknown_paths_and_methods_are_problems_too(client):
    refused(client.get("/nothing"), 404)
    refused(client.get("/predict"), 405)


KINDS = ["text/csv", "application/vnd.apache.parquet"]
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.fixed_dictionaries({}, optional=dict.fromkeys(ROW, CELLS)), form=st.sampled_from(["rows", "columns"]))
def test_whatever_stands_in_a_cell_is_predicted_or_named(client, row, form):
    body = {"rows": [row]} if form == "rows" else {"columns": {name: [cell] for name, cell in row.items()}}
    answer = client.post("/predict", json=body)
    if answer.status_code != 200:
        refused(answer, 422)
    else:
        assert answer.json()["rows"] == 1


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), headed=st.booleans(), kind=st.sampled_from(KINDS))
def test_whatever_is_uploaded_is_predicted_or_refused(client, content, headed, kind):
    whole = b"age,ward,admitted,note\n" * headed + content
    answer = client.post("/predict/batch", content=whole, headers={"content-type": kind})
    assert answer.status_code == 200 or refused(answer, 422)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_whatever_bytes_are_sent_as_json_are_refused(client, content):
    refused(client.post("/predict", content=content, headers={"content-type": "application/json"}), (400, 422))


def test_another_machine_needs_a_token(stays, tmp_path):
    options = {"port": 0, "rows": 5, "megabytes": 1}
    for host in ("0.0.0.0", "::", "example.org", "192.168.1.5"):
        with pytest.raises(ConfigError, match="--token-file is needed"):
            make_server(stays[0], host=host, token_file=None, **options)
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    with pytest.raises(ConfigError, match="can be read by others"):
        make_server(stays[0], host="0.0.0.0", token_file=token, **options)
    token.chmod(0o600)
    make_server(stays[0], host="0.0.0.0", token_file=token, **options)


@pytest.mark.parametrize("text", ["", "short", "with blanks in between it", "größer-als-sechzehn-zeichen"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(tmp_path, text):
    token = tmp_path / "token"
    token.write_text(text)
    token.chmod(0o600)
    with pytest.raises(ConfigError, match="a token is at least 16"):
        read_token(token)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_with_a_token_only_its_bearer_is_answered(stays, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with running(stays[0], token_file=token) as client:
        assert client.get("/health").status_code == 200
        for said in (None, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN):
            headers = {} if said is None else {"authorization": said}
            for path in ("/model", "/openapi.json", "/docs"):
                answer = client.get(path, headers=headers)
                refused(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"
            refused(client.post("/predict", json={"rows": [ROW]}, headers=headers), 401)
        answer = client.post("/predict", json={"rows": [ROW]}, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200


def test_a_page_that_reaches_this_port_under_its_own_name_is_not_answered(client):
    refused(client.get("/model", headers={"host": "evil.example"}), 421)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "[::1]"):
        assert client.get("/model", headers={"host": host}).status_code == 200


def test_what_loopback_is():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "", "localhost.evil.example")))


def test_a_failure_inside_tells_and_logs_its_kind_and_no_cell(stays, monkeypatch, caplog):
    def broken(self, frame, folder):
        raise RuntimeError(f"cannot do {frame['note'][0]}")

    monkeypatch.setattr(Predictor, "predict", broken)
    with caplog.at_level(logging.DEBUG), running(stays[0]) as client:
        answer = client.post("/predict", json={"rows": [ROW]})
        refused(answer, 500)
    assert "RuntimeError" in caplog.text
    for cell in ("frail", "south"):
        assert cell not in caplog.text and cell not in answer.text


def test_nothing_of_a_row_is_logged(stays, caplog, capfd):
    with caplog.at_level(logging.DEBUG, logger="uvicorn"), running(stays[0]) as client:
        client.post("/predict", json={"rows": [ROW, ROW | {"age": "old-and-grey"}]})
        client.post("/predict/batch", content=b"age\nold-and-grey\n", headers={"content-type": "text/csv"})
    seen = caplog.text + "".join(capfd.readouterr())
    for cell in ("frail", "south", "grey"):
        assert cell not in seen


def pictures():
    features = Features(ImageInput(1, 2, 2), (Image("scan", 1, 2, 2),))
    model = Model("linear", {"weight": np.ones((1, 4)), "bias": np.zeros(1)})
    return Predictor(Binary(("dark", "light")), features, ((1.0, model),))


def test_an_image_is_sent_as_its_bytes_and_never_as_a_path(tmp_path):
    import base64

    from PIL import Image as Pictures

    packed = io.BytesIO()
    Pictures.fromarray(np.full((2, 2), 200, dtype=np.uint8)).save(packed, "PNG")
    predictor = pictures()
    model = request_model(predictor.features, rows=9)
    body = model.model_validate({"rows": [{"scan": base64.b64encode(packed.getvalue()).decode()}]})
    frame = table_of(body, predictor.features, tmp_path)
    x = predictor.features.encode(frame, tmp_path)
    np.testing.assert_allclose(x, (200 - 127.5) / 127.5, rtol=1e-6)
    with pytest.raises(Exception, match="row 1, column 'scan': found no base64"):
        table_of(model.model_validate({"rows": [{"scan": "/etc/passwd!"}]}), predictor.features, tmp_path)
