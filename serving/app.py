# SPDX-License-Identifier: Apache-2.0
"""From a request to an answer: paths, limits and codes.

400 no JSON, or not of the protocol · 401 no token · 404 no such model · 408 it did not arrive in
time · 413 too large · 422 a bad text or value · 424 the network failed on it · 429 the queue is
full · 503 starting or stopping · 504 no answer in time. The body of each is {"error": a sentence}.
Nothing of a request is printed or kept.
"""

import asyncio
import contextlib
import functools
import hmac
import json
import time
import traceback
from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from common.console import log
from common.training.run_record import program_version
from serving import try_page
from serving.batcher import QueueFull
from serving.models import NotFound
from serving.protocols import open_inference, short, tf_serving
from serving.protocols.query import Refused, bad_value, malformed
from serving.readers import BadText

STARTING, READY, STOPPING = "starting", "ready", "stopping"
RETRY_SECONDS = 1
MANY_CHARACTERS = 20_000  # longer texts are cut into tokens in a thread: others go on meanwhile
NOT_SERVED = "not served"  # all other models in the figures; no name of a model has a blank
# {end of a path: a body to POST there}
EXAMPLES = {
    "/predict": {"inputs": "a text"},
    "/page/explain": {"inputs": "a text"},
    "/v1/classify": {"input": "a text"},
    ":predict": {"instances": ["a text"]},
    "/infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a text"]}]},
}


class App:
    """What answers.

    models: Models. settings: ServingParams. figures: Figures. token: str or None. shows_rows: bool,
    whether the page may show rows that the model was evaluated on.
    Attributes:
        state: STARTING, READY or STOPPING. num_requests: int, those at work.
    """

    def __init__(self, models, settings, figures, token=None, shows_rows=True):
        self.models, self.settings, self.figures = models, settings, figures
        self.state, self.num_requests = STARTING, 0
        self._shows_rows = shows_rows
        self._token = token and token.encode()
        self.asgi = Starlette(
            routes=[
                Route("/", self.page),
                Route("/page/models", self.page_models),
                Route("/page/explain", self.page_explain, methods=["POST"]),
                *(Route(f"/page/{name}", self.page) for name in try_page.FILES),
                Route("/healthz", self.live),
                Route("/health", self.ready),
                Route("/readyz", self.ready),
                Route("/metrics", self.metrics),
                Route("/v2", self.v2_server),
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                *(
                    Route(f"/v2/models/{{name}}{version}{end}", of_model, methods=[method])
                    for version in ("", "/versions/{version:int}")
                    for end, of_model, method in (
                        ("", self.v2_model, "GET"),
                        ("/ready", self.v2_ready, "GET"),
                        ("/infer", self.v2_infer, "POST"),
                    )
                ),
                Route("/v1/models", self.v1_models),
                Route("/v1/models/{rest:path}", self.tf_serving, methods=["GET", "POST"]),
                Route("/predict", self.predict, methods=["POST"]),
                Route("/v1/classify", self.classify, methods=["POST"]),
            ],
            exception_handlers={404: not_there, 405: wrong_method},
        )

    # ---- What it says of itself ------------------------------------------------------------------

    async def live(self, request):
        return as_json({"live": True})

    async def ready(self, request):
        is_ready = self.state == READY
        return as_json({"ready": is_ready, "state": self.state}, 200 if is_ready else 503)

    async def metrics(self, request):
        try:
            self._check_token(request)
        except Refused as error:
            return failed(error.code, str(error), error.headers)
        for model in self.models:
            waiting = sum(len(served.batcher) for served in model.served.values())
            self.figures.waiting.labels(model.source.name).set(waiting)
        return Response(self.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # ---- The page --------------------------------------------------------------------------------

    async def page(self, request):
        name = request.url.path.rpartition("/")[2]
        return try_page.file_response(name or "index.html")

    async def page_models(self, request):
        async def answer(body):
            found = []
            for name in self.models.names:
                with self.models.borrow(name) as served:
                    found.append(try_page.describe(served, self._shows_rows))
            return found

        return await self.respond(request, "page", answer, has_body=False)

    async def page_explain(self, request):
        async def answer(body):
            with self.models.borrow(name_in(request, body)) as served:
                query = short.read_predict(body, served.reader)
                if len(query) != 1:
                    raise bad_value("one text is explained at a time")

                async def answers_to(texts):
                    return await self.answers(request, served, replace(query, texts=texts))

                most = self.settings.max_client_batch_size
                return await try_page.explained(served, query, answers_to, most, in_thread)

        return await self.respond(request, "page", answer)

    # ---- Protocols -------------------------------------------------------------------------------

    async def tf_serving(self, request):
        found = tf_serving.PATH.fullmatch(request.path_params["rest"])
        if found is None:
            return not_there(request)
        name, label, what = found["name"], found["label"], found["what"]
        number = None if found["version"] is None else int(found["version"])
        if what == ":predict":
            if request.method != "POST":
                raise HTTPException(405, headers={"Allow": "POST"})

            async def answer(body):
                with self.models.borrow(name, number, label) as served:
                    query = tf_serving.read(body, served.reader)
                    answers = await self.answers(request, served, query)
                    reader = served.reader
                    outputs = reader.outputs if query.texts else reader.outputs_of_ids
                    return tf_serving.write(query, answers, outputs)

            return await self.respond(request, "tf_serving", answer, name)

        async def say(body):
            with self.models.borrow(name, number, label) as served:
                if what == "/metadata":
                    return tf_serving.metadata(served)
                is_one = number is not None or label is not None
                return tf_serving.status([served.number] if is_one else self.models[name].served)

        if request.method == "POST":
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        return await self.respond(request, "tf_serving", say, name, has_body=False)

    async def v2_server(self, request):
        facts = {
            "name": "bert-classifier",
            "version": version(),
            "extensions": open_inference.EXTENSIONS,
        }
        return as_json(facts)

    async def v2_model(self, request):
        return await self._v2(
            request, lambda served: open_inference.metadata(self.models[served.name], served)
        )

    async def v2_ready(self, request):
        return await self._v2(request, lambda served: {"name": served.name, "ready": True})

    async def _v2(self, request, say):
        name, number = request.path_params["name"], request.path_params.get("version")

        async def answer(body):
            with self.models.borrow(name, number) as served:
                return say(served)

        return await self.respond(request, "open_inference", answer, name, has_body=False)

    async def v2_infer(self, request):
        name, number = request.path_params["name"], request.path_params.get("version")

        async def answer(content):
            size = request.headers.get(open_inference.SIZE_HEADER)
            content, rest = open_inference.parts_of(content, size)
            body = parsed(content)
            with self.models.borrow(name, number) as served:
                reader = served.reader
                query = open_inference.read(body, reader, rest)
                answers = await self.answers(request, served, query)
                outputs = reader.outputs if query.texts else reader.outputs_of_ids
                body, rest = open_inference.write(query, answers, outputs, served)
            response = as_json(body)
            if rest and response.status_code == 200:
                headers = {open_inference.SIZE_HEADER: str(len(response.body))}
                kind = "application/octet-stream"
                return Response(response.body + rest, headers=headers, media_type=kind)
            return response

        return await self.respond(request, "open_inference", answer, name, is_json=False)

    async def predict(self, request):
        async def answer(body):
            with self.models.borrow(name_in(request, body)) as served:
                query = short.read_predict(body, served.reader)
                answers = await self.answers(request, served, query)
                return short.write_predict(query, answers, served.reader)

        return await self.respond(request, "predict", answer)

    async def v1_models(self, request):
        async def answer(body):
            found = []
            for model in self.models:
                with self.models.borrow(model.source.name) as served:
                    found.append(short.describe(model, served))
            return {"object": "list", "data": found}

        return await self.respond(request, "models", answer, has_body=False)

    async def classify(self, request):
        async def answer(body):
            with self.models.borrow(name_in(request, body)) as served:
                query = short.read_classify(body, served.reader)
                num_tokens = [0]
                answers = await self.answers(request, served, query, num_tokens)
                return short.write_classify(answers, served, num_tokens[0])

        return await self.respond(request, "classify", answer)

    # ---- One request -----------------------------------------------------------------------------

    async def respond(self, request, protocol, answer, model=None, has_body=True, is_json=True):
        """Returns the Response of a request.

        answer: async, what its body says -> what the answer's body says, or a Response. is_json:
        the body is read; else `answer` gets its bytes. model: its name, for the figures; None is
        the first.
        """
        started = time.perf_counter()
        self.num_requests += 1
        self.figures.in_flight.set(self.num_requests)
        try:
            response = await self._response(request, answer, has_body, is_json)
        finally:
            self.num_requests -= 1
            self.figures.in_flight.set(self.num_requests)
        model = getattr(request.state, "model", model)
        if model is None:
            model = self.models.default
        elif model not in self.models.names:  # a label for each would fill the memory
            model = NOT_SERVED
        self.figures.requests.labels(model, protocol, str(response.status_code)).inc()
        self.figures.seconds.labels(model).observe(time.perf_counter() - started)
        if self.state == STOPPING:
            response.headers["Connection"] = "close"
        return response

    async def _response(self, request, answer, has_body, is_json):
        try:
            self._check_token(request)
            if self.state != READY:
                retry = {"Retry-After": str(RETRY_SECONDS)}
                raise Refused(503, f"the server is {self.state}", retry)
            body = await self._body(request) if has_body else None
            said = await answer(parsed(body) if has_body and is_json else body)
            return said if isinstance(said, Response) else as_json(said)
        except Refused as error:
            return failed(error.code, str(error), error.headers)
        except NotFound as error:
            return failed(404, str(error))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:  # a fault of this program: its place is printed, and no text
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            log(f"A request failed: {type(error).__name__} at {where}")
            return failed(500, f"the server failed: {type(error).__name__}")

    def _check_token(self, request):
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_token = hmac.compare_digest(given.encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not is_token:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refused(401, "the header Authorization: Bearer SECRET is wanted", challenge)

    async def _body(self, request):
        """Returns the bytes of a body."""
        most = self.settings.max_body_bytes
        # What is still on its way is not read: the connection ends.
        too_large = Refused(413, f"the body has more than {most} bytes", {"Connection": "close"})
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.request_timeout):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise too_large
        except TimeoutError:
            seconds = f"{self.settings.request_timeout:g} seconds"
            close = {"Connection": "close"}
            raise Refused(408, f"the body did not arrive in {seconds}", close) from None
        return b"".join(parts)

    async def answers(self, request, served, query, num_tokens=None):
        """Returns the answer of each row of a Query: list of {name of an output: value}.

        num_tokens: a list whose first number becomes that of all tokens.
        """
        most = self.settings.max_client_batch_size
        if len(query) > most:
            raise Refused(413, f"the request has {len(query)} texts; {most} are accepted at once")
        reader, prepared = served.reader, []
        if query.texts:
            prepared = await prepare(reader, query)
        rows = [row for each in prepared for row in each.rows] or query.rows
        if num_tokens is not None:
            num_tokens[0] = sum(len(ids) for ids, _ in rows)
        if len(rows) > self.settings.max_queue:
            raise Refused(
                413,
                f"the request is {len(rows)} rows, as a long text is several; --max_queue accepts "
                f"{self.settings.max_queue}",
            )
        job = await self._computed(request, served, rows)
        if job.errors:
            error = next(iter(job.errors.values()))
            raise Refused(424, f"the network failed: {type(error).__name__}")
        try:
            if not prepared:
                pairs = zip(query.rows, job.outputs, strict=True)
                return [reader.answer_ids(row, outputs) for row, outputs in pairs]
            return await decoded(reader, prepared, job.outputs)
        except (ValueError, IndexError, KeyError) as error:
            raise Refused(424, f"the answer cannot be read: {type(error).__name__}") from None

    async def _computed(self, request, served, rows):
        """Returns the Job of rows when it is done. It is cancelled where nobody waits for it."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish(job):
            if not done.done():
                done.set_result(job)

        def on_done(job):
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(finish, job)

        try:
            job = served.batcher.submit(rows, on_done)
        except QueueFull:
            raise Refused(
                429,
                f"{self.settings.max_queue} rows wait already",
                {"Retry-After": str(RETRY_SECONDS)},
            ) from None
        left = asyncio.ensure_future(request.receive())  # the body has come: nothing but its end
        try:
            await asyncio.wait(
                {done, left},
                timeout=self.settings.request_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            left.cancel()
            job.is_cancelled = not done.done()
        if done.done():
            return job
        if left.done() and not left.cancelled():
            raise ClientDisconnect
        raise Refused(504, f"there is no answer after {self.settings.request_timeout:g} seconds")


async def prepare(reader, query):
    """Returns Prepared of each text of a Query."""

    def work():
        found = []
        for number, text in enumerate(query.texts):
            try:
                found.append(reader.prepare(text))
            except BadText as error:
                raise bad_value(f"row {number}: {error}") from None
        return found

    size = sum(len(each) for text in query.texts for each in text)
    return await (in_thread(work) if size > MANY_CHARACTERS else at_once(work))


async def decoded(reader, prepared, outputs):
    """Returns the answer of each text."""

    def work():
        found, first = [], 0
        for each in prepared:
            of_text = outputs[first : first + len(each.rows)]
            first += len(each.rows)
            arrays = {name: [row[name] for row in of_text] for name in of_text[0]}
            found.append(reader.answer(each, arrays))
        return found

    is_much = len(outputs) > len(prepared)
    return await (in_thread(work) if is_much else at_once(work))


async def at_once(work):
    return work()


async def in_thread(work):
    return await asyncio.get_running_loop().run_in_executor(None, work)


def parsed(content):
    """Returns what the JSON of a body says."""
    try:
        return json.loads(content)
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except ValueError:  # a number of thousands of digits
        reason = "it cannot be read"
    raise malformed(f"the body is no JSON: {reason}")


@functools.cache
def version():
    """The commit or version of the program."""
    return program_version()


def name_in(request, body):
    """Returns the name of the model in a body, or None, and keeps it for the request's figures."""
    name = body.get("model") if isinstance(body, dict) else None
    if name is not None and not isinstance(name, str):
        raise bad_value("model is the name of one, a text")
    request.state.model = name
    return name


def as_json(content, code=200, headers=None):
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return failed(424, "the network gave a number that is not finite")
    body = text.encode("utf-8", "backslashreplace")
    return Response(body, code, headers, media_type="application/json")


def failed(code, sentence, headers=None):
    return as_json({"error": sentence}, code, headers)


def not_there(request, error=None):
    return failed(404, "there is nothing here; see docs/serving.md")


def wrong_method(request, error):
    """Says which methods a path takes, with a request to copy where a body is POSTed."""
    allowed = ", ".join(sorted(error.headers["Allow"].split(", ")))
    path, host = request.scope["path"], request.headers.get("host", "HOST")
    sentence = f"{path} takes {allowed}, not {request.method}"
    if allowed == "POST":
        body = next(body for end, body in EXAMPLES.items() if path.endswith(end))
        sentence += f": curl {request.scope['scheme']}://{host}{path} -d '{json.dumps(body)}'"
    else:
        sentence += "; docs/serving.md has the paths to which texts are POSTed"
    return failed(405, sentence, {"Allow": allowed})
