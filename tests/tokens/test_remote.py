"""Models outside of JAX: a function, a torch module, a server on this machine."""

import contextlib
import itertools
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

SIZE = 6
TABLE = np.asarray(jax.random.normal(jax.random.key(3), (SIZE, SIZE)))
BIGRAMS = gfopt.tokens.FunctionModel(
    lambda table, tokens: table[tokens], jnp.asarray(TABLE)
)
PROMPT, EMPTY = jnp.array([0, 4]), np.full(4, -1)


def bigrams(tokens, at):
    return TABLE[np.take_along_axis(tokens, at, axis=1)]


class Tensor(np.ndarray):
    """What is used of torch's tensors."""

    def float(self):
        return self.astype(np.float32)

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self)


@pytest.fixture
def torch(monkeypatch):
    module = types.ModuleType("torch")
    module.no_grad = contextlib.nullcontext
    module.as_tensor = lambda rows, device: rows.view(Tensor)
    monkeypatch.setitem(sys.modules, "torch", module)


class Module:
    """A causal model as transformers has them; remembers what it was given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, ids):
        assert ids.dtype == np.int64 and ids.flags.writeable
        self.shapes.append(ids.shape)
        logits = TABLE[np.asarray(ids)].astype(np.float16).view(Tensor)
        return types.SimpleNamespace(logits=logits)


def searched(model):
    score = gfopt.tokens.Targeted(model, PROMPT, jnp.array([3, 1]))
    beast = gfopt.tokens.Beast(model, PROMPT, beam_width=3, num_candidates=2)
    return gfopt.minimize(score, EMPTY, method=beast)


def test_a_python_function_proposes_and_scores():
    found, expected = searched(gfopt.tokens.HostModel(bigrams, SIZE)), searched(BIGRAMS)
    assert np.array_equal(found.x, expected.x)
    np.testing.assert_allclose(found.fun, expected.fun, rtol=1e-5)


def test_a_torch_module_in_batches(torch):
    module = Module()
    model = gfopt.tokens.torch_model(module, SIZE, batch_size=2)
    rows = jnp.arange(10).reshape(5, 2) % SIZE
    _, cache = model.start(PROMPT, 3)
    module.shapes.clear()
    found = jax.vmap(lambda row: model.extend(cache, row)[0])(rows)
    np.testing.assert_allclose(found, TABLE[rows], atol=1e-2)
    assert module.shapes == [(2, 4), (2, 4), (1, 4)]  # no padding is read


def test_torch_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch transformers"):
        gfopt.tokens.torch_model(Module(), SIZE)


def test_a_function_with_the_wrong_shape_is_named():
    model = gfopt.tokens.HostModel(lambda tokens, at: TABLE[tokens], SIZE)
    with pytest.raises(Exception, match=r"fun must return logits of shape \(1, 1, 6\)"):
        jax.block_until_ready(model.start(jnp.array([0, 1]), 2)[0])
    with pytest.raises(TypeError, match="fun must be callable"):
        gfopt.tokens.HostModel(None, SIZE)


class Handler(BaseHTTPRequestHandler):
    """A server of the completions protocol; every fifth answer is an error."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.asked.append((self.headers.get("Authorization"), asked))
        tokens = asked["prompt"]
        if server.kind == "errors" and len(server.asked) % 5 == 0:
            self.send_error(503)
            return
        log_p = np.asarray(jax.nn.log_softmax(TABLE, axis=-1))
        values = [None, *(float(log_p[a, b]) for a, b in itertools.pairwise(tokens))]
        body = {"choices": [{"logprobs": {"token_logprobs": [*values, -0.5]}}]}
        if server.kind == "elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{server.server_port}/v2")
            self.end_headers()
            return
        if server.kind == "strange":
            body = {"choices": []}
        if server.kind == "short":
            body["choices"][0]["logprobs"]["token_logprobs"] = values[:1]
        data = json.dumps(body).encode()
        data = {"large": data + b" " * 2**21, "deep": b"[" * 10**5}.get(
            server.kind, data
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(request):
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.kind = [], getattr(request, "param", "")
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def endpoint(server, **options):
    return gfopt.tokens.EndpointModel(
        f"http://127.0.0.1:{server.server_port}/v1", **options
    )


def test_an_endpoint_scores_like_the_model(server):
    model = endpoint(server, name="mine", headers={"Authorization": "Bearer x"})
    loss = gfopt.tokens.continuation_score(model, [0, 4], [3, 1], tail=[2])
    target = jnp.array([3, 1])
    score = gfopt.tokens.Targeted(BIGRAMS, PROMPT, target, jnp.array([2]))
    text = np.array([5, 1, -1])
    np.testing.assert_allclose(loss(text), score(jnp.asarray(text)), rtol=1e-5)
    who, asked = server.asked[0]
    assert who == "Bearer x" and asked["model"] == "mine" and asked["echo"]
    assert asked["prompt"] == [0, 4, 5, 1, 2, 3, 1]
    assert "x" not in repr(model).replace("http", "")


@pytest.mark.parametrize("server", ["errors"], indirect=True)
def test_a_search_through_an_endpoint_that_fails_now_and_then(server):
    loss = gfopt.tokens.continuation_score(endpoint(server), [0], [3])
    result = gfopt.minimize(
        loss,
        [0] * 3,
        method="random_tokens",
        options={"vocabulary": SIZE, "population_size": 10},
        budget=30,
    )
    assert result.path == "host" and result.nfev == 30
    assert sum(result.failures.values()) == 6
    assert np.isclose(loss(result.x), result.fun)


@pytest.mark.parametrize("server", ["elsewhere"], indirect=True)
def test_a_key_is_not_taken_elsewhere(server):
    with pytest.raises(OSError, match="302"):
        endpoint(server, headers={"Authorization": "Bearer x"})([0, 1, 2])
    assert len(server.asked) == 1


def test_a_key_is_not_shown(caplog):
    for wrong in ("Bearer secret\n", b"secret"):
        with pytest.raises(ValueError, match="headers must be texts") as error:
            gfopt.tokens.EndpointModel("http://x", headers={"Authorization": wrong})
        assert "secret" not in str(error.value)
    headers = {"Authorization": "Bearer secret"}
    model = gfopt.tokens.EndpointModel("http://127.0.0.1:9", headers=headers)
    loss = gfopt.tokens.continuation_score(model, [0], [3])
    options = {"vocabulary": SIZE, "population_size": 2}
    words = {"method": "random_tokens", "options": options, "budget": 3}
    result = gfopt.minimize(loss, [0] * 3, **words)
    assert sum(result.failures.values()) == 3 and "refused" in caplog.text
    assert "secret" not in caplog.text + str(result.failures) + repr(model)


@pytest.mark.parametrize("server", ["strange", "short", "large", "deep"], indirect=True)
def test_a_strange_answer_is_named(server):
    with pytest.raises(ValueError, match="url must answer"):
        endpoint(server)([0, 1, 2])


def test_bad_arguments_of_endpoints_are_refused():
    with pytest.raises(ValueError, match="url must begin with http:// or https://"):
        gfopt.tokens.EndpointModel("file:///etc/hosts")
    with pytest.raises(ValueError, match="timeout must be a finite number above 0"):
        gfopt.tokens.EndpointModel("http://x", timeout=0)
    with pytest.raises(ValueError, match="target must have one token or more"):
        gfopt.tokens.continuation_score(lambda tokens: [], [0], [])
