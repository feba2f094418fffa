"""The Python interpreter of a context.

It comes over standard input and is never a file in the box. It runs cells in one namespace, as a notebook does, and tells what came of
each. What it says goes between what the user's code writes to standard output, in pieces that begin with a mark that only server and
driver know, and that the kernel writes whole or not at all (PIPE_BUF): so the order of results and output is kept, and no thread has to
copy anything. The other side of this is frames.rs; whatever is changed here is changed there.
"""

import sys

# No module in the working folder takes the place of one that is meant here.
_path, sys.path = sys.path, [_entry for _entry in sys.path if _entry]
import _thread
import ast
import binascii
import builtins
import json
import linecache
import os
import select
import signal
import traceback
import types

sys.path = _path

# Bytes of a piece: PIPE_BUF, and without the mark and what stands behind it.
PIECE = 4096 - 20
CELLS_KEPT = 200
# What one result is shown as at most, and how long the name of such a kind is.
KINDS_MAX = 32
KIND_BYTES_MAX = 100
AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
COROUTINE = 0x80
FUTURES = 0
for _name in __import__("__future__").all_feature_names:
    FUTURES |= getattr(__import__("__future__"), _name).compiler_flag
BACKEND = "boxyard_matplotlib"
# What it takes to be shown in more than plain text, and as what it is shown then.
REPRS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)


class Wire:
    """The connection to the server."""

    def __init__(self):
        self.pid = os.getpid()
        self.given = os.dup(0)
        self.out = os.dup(1)
        self.err = os.dup(2)
        # Nobody types anything here.
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.lock = _thread.allocate_lock()
        # The user's code may be interrupted now, and something is being sent, which must not be left half sent.
        self.running = False
        self.sending = False
        self.interrupted = False
        self.mark = b""

    def read(self, count):
        """Exactly so many bytes; ends the process when there are no more, because then nobody is there any more."""
        parts = []
        while count:
            part = os.read(self.given, min(count, 1 << 20))
            if not part:
                sys.exit(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self):
        """A message: what it says, and the text behind that, if there is one."""
        head, line, text = self.read(int.from_bytes(self.read(4), "big")).partition(b"\n")
        return json.loads(head), text.decode() if line else None

    def is_child(self):
        """Whether this is a process that the user's code has forked. What it would say is not expected."""
        return os.getpid() != self.pid

    def send(self, kind, message, fd=None):
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        if self.is_child():
            return
        self.sending = True
        try:
            with self.lock:
                start = 0
                while True:
                    piece = payload[start : start + PIECE]
                    first, last = start == 0, start + PIECE >= len(payload)
                    start += PIECE
                    place = (b"." if last else b"(") if first else (b")" if last else b"-")
                    head = self.mark + kind + place + len(piece).to_bytes(2, "big")
                    self.write(self.out if fd is None else fd, head + piece)
                    if last:
                        break
        finally:
            self.sending = False
        if self.interrupted and self.running:
            self.interrupted = False
            raise KeyboardInterrupt

    def write(self, fd, frame):
        while True:
            try:
                os.write(fd, frame)
                return
            except BlockingIOError:
                # Somebody who shares the pipe has made it so.
                select.select([], [fd], [])

    def on_interrupt(self, _signal, _frame):
        if self.sending:
            self.interrupted = self.running
        elif self.running:
            raise KeyboardInterrupt


class Shown:
    """What a cell shows: bounded in number and in bytes."""

    def __init__(self, wire, limits):
        self.wire = wire
        self.limits = limits
        self.begin()

    def begin(self):
        self.count = self.limits["results"]
        self.bytes = self.limits["result_bytes"]
        self.cut = False

    def send(self, bundle, main=False):
        if self.wire.is_child():
            return
        if self.count <= 0:
            self.cut = True
            return
        parts = []
        for mime, value in bundle.items():
            text = self.encode(mime, value)
            if text is None:
                continue
            if len(text) > self.bytes or len(parts) == KINDS_MAX:
                self.cut = True
                continue
            self.bytes -= len(text)
            parts.append((str(mime)[:KIND_BYTES_MAX], text))
        self.count -= 1
        head = {"main": main, "parts": [(mime, len(text)) for mime, text in parts]}
        self.wire.send(b"R", json.dumps(head).encode() + b"\n" + b"".join(text for _, text in parts))

    def encode(self, mime, value):
        """A value as it is sent: a text, or for kinds that are JSON that. None when it cannot be told."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = binascii.b2a_base64(value, newline=False).decode()
        if is_json(mime):
            return self.encode_json(value)
        if isinstance(value, str):
            if is_base64(mime):
                # Some encoders break lines.
                value = "".join(value.split())
            most = self.limits["text_bytes"]
            if mime == "text/plain" and len(value) > most:
                value = value[:most] + "…"
                self.cut = True
            return clean(value).encode()
        return None

    def encode_json(self, value):
        try:
            return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except ValueError:
            pass
        except (TypeError, RecursionError):
            return None
        try:
            # JSON has no NaN.
            value = json.loads(json.dumps(value), parse_constant=lambda _: None)
            return json.dumps(value, separators=(",", ":")).encode()
        except (ValueError, TypeError, RecursionError):
            return None


def is_json(mime):
    return mime == "application/json" or str(mime).endswith("+json")


def is_base64(mime):
    return str(mime).startswith("image/") and mime != "image/svg+xml" or mime == "application/pdf"


def clean(text):
    """The text without halves of characters, which UTF-8 has no place for."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def tell(error):
    """Something that went wrong beside the user's own code."""
    traceback.print_exception(type(error), error, error.__traceback__)


def bundle_of(value, include=None, exclude=None):
    """All that a value can be shown as."""
    data = {}
    kind = type(value)
    has = (lambda name: callable(getattr(kind, name, None))) if not isinstance(value, type) else (lambda _: False)
    if has("_repr_mimebundle_"):
        try:
            made = value._repr_mimebundle_(include=include, exclude=exclude)
            made = made[0] if isinstance(made, tuple) else made
            data.update(made or {})
        except Exception as error:
            tell(error)
    for name, mime in REPRS:
        if mime in data or not has(name):
            continue
        try:
            made = getattr(value, name)()
        except NotImplementedError:
            continue
        except Exception as error:
            tell(error)
            continue
        made = made[0] if isinstance(made, tuple) and made else made
        if made is not None:
            data[mime] = made
    if "image/png" not in data and kind.__name__ == "Figure" and kind.__module__.startswith("matplotlib."):
        try:
            data["image/png"] = png_of(value)
        except Exception as error:
            tell(error)
    if "text/plain" not in data:
        try:
            data["text/plain"] = repr(value)
        except Exception as error:
            tell(error)
            data["text/plain"] = object.__repr__(value)
    if include:
        data = {mime: made for mime, made in data.items() if mime in include}
    if exclude:
        data = {mime: made for mime, made in data.items() if mime not in exclude}
    return data


def png_of(figure):
    import io

    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight")
    return image.getvalue()


def show_figures(shown, already=None):
    """Shows matplotlib's open figures, but not one that was shown `already`, and closes them, as notebooks do at the end of a cell."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None:
        return
    try:
        for manager in helpers.Gcf.get_all_fig_managers():
            figure = manager.canvas.figure
            if figure is already:
                continue
            shown.send({"image/png": png_of(figure), "text/plain": repr(figure)})
    except Exception as error:
        tell(error)
    finally:
        helpers.Gcf.destroy_all()


class Hooks:
    """Finds modules as Python does, and changes a few of them a little: where they show something, it is shown here."""

    def __init__(self, shown, display):
        self.shown = shown
        self.display = display
        self.changes = {"matplotlib": self.matplotlib, "IPython.core.display_functions": self.ipython}

    def find_spec(self, name, path=None, target=None):
        if name == BACKEND:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self)
        change = self.changes.get(name)
        if change is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if finder is not self and find else None
            if spec is not None:
                break
        else:
            return None
        run = getattr(spec.loader, "exec_module", None)
        if run is not None:

            def exec_module(module):
                run(module)
                try:
                    change(module)
                except Exception as error:
                    tell(error)

            try:
                spec.loader.exec_module = exec_module
            except AttributeError:
                pass
        return spec

    def create_module(self, _spec):
        return None

    def exec_module(self, module):
        """Our backend for matplotlib: Agg, whose figures are shown in the answer."""
        from matplotlib.backends import backend_agg as agg

        for name in ("FigureCanvas", "FigureManager", "new_figure_manager", "new_figure_manager_given_figure"):
            if hasattr(agg, name):
                setattr(module, name, getattr(agg, name))
        module.draw_if_interactive = lambda: None
        module.show = lambda *args, **kwargs: show_figures(self.shown)

    def matplotlib(self, module):
        # Neither the environment nor a file of the user's has chosen one.
        chosen = dict.__getitem__(module.rcParams, "backend")
        if not isinstance(chosen, str) and not os.environ.get("MPLBACKEND"):
            module.rcParams["backend"] = "module://" + BACKEND

    def ipython(self, module):
        module.display = self.display


class Interpreter:
    """One namespace, and the cells that are run in it."""

    def __init__(self, wire, limits):
        self.wire = wire
        self.limits = limits
        self.shown = Shown(wire, limits)
        self.futures = 0
        self.loop = None
        self.cells = []
        self.modules = 0
        self.flush_c = None
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = main
        self.names = main.__dict__
        builtins.display = self.display
        # Those of `site` close standard input as well.
        builtins.exit = builtins.quit = sys.exit
        sys.meta_path.insert(0, Hooks(self.shown, self.display))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
            except (AttributeError, ValueError):
                pass

    def display(self, *values, include=None, exclude=None, raw=False, **_others):
        """Shows values in the answer: each as all that it can be shown as, or with `raw` as the MIME bundle that it is."""
        for value in values:
            if raw and isinstance(value, dict):
                self.shown.send(value)
            else:
                self.shown.send(bundle_of(value, include, exclude))

    def run(self, number, code):
        """Runs a cell to its end and tells what came of it."""
        name = "<cell %d>" % number
        self.keep(name, code)
        self.shown.begin()
        error = None
        try:
            try:
                signal.signal(signal.SIGINT, self.wire.on_interrupt)
                self.wire.interrupted = False
                self.wire.running = True
                value, is_one = self.evaluate(name, code)
                if is_one and value is not None:
                    self.shown.send(bundle_of(value), main=True)
                show_figures(self.shown, value)
                del value
            finally:
                self.wire.running = False
        except BaseException as caught:
            self.wire.running = False
            error = self.told(caught)
        if self.wire.is_child():
            # A process that was forked in the cell has come to the cell's end; the next one is none of its business.
            os._exit(0)
        self.flush()
        if error is not None:
            self.wire.send(b"E", error)
        # Standard error is complete, and then so is standard output.
        self.wire.send(b"D", {"n": number}, self.wire.err)
        self.wire.send(b"D", {"n": number, "cut": self.shown.cut})

    def keep(self, name, code):
        """Lets tracebacks and `inspect` see the cell's lines."""
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        self.cells.append(name)
        if len(self.cells) > CELLS_KEPT:
            linecache.cache.pop(self.cells.pop(0), None)

    def evaluate(self, name, code):
        """Runs the cell. Returns the value of its last expression, and whether it ends with one."""
        flags = AWAIT | self.futures
        tree = compile(code, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not silenced(code, tree.body[-1]):
            last = ast.Expression(tree.body.pop().value)
        body = compile(tree, name, "exec", flags, dont_inherit=True)
        self.futures |= body.co_flags & FUTURES
        flags |= self.futures
        last = compile(last, name, "eval", flags, dont_inherit=True) if last is not None else None
        self.value_of(body)
        if last is None:
            return None, False
        return self.value_of(last), True

    def value_of(self, code):
        value = eval(code, self.names)
        return self.wait_for(value) if code.co_flags & COROUTINE else value

    def wait_for(self, coroutine):
        """What a cell that awaits something comes to. Tasks that it leaves go on while the next one awaits."""
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                try:
                    self.loop.run_until_complete(task)
                except BaseException:
                    pass
            raise

    def told(self, error):
        """An error as it is told: without the frames that are ours."""
        frames = error.__traceback__
        while frames is not None and not frames.tb_frame.f_code.co_filename.startswith("<cell "):
            frames = frames.tb_next
        try:
            said = traceback.TracebackException(type(error), error, frames)
            without_ours(said)
            lines = list(said.format())
        except Exception:
            lines = [type(error).__name__]
        try:
            message = str(error)
        except Exception:
            message = "<no text>"
        most = self.limits["error_bytes"]
        text = "".join(lines)
        if len(text) > most:
            text = text[: most // 2] + "\n…\n" + text[-most // 2 :]
        name = type(error).__name__
        return {"name": clean(name)[:200], "message": clean(message)[: most // 2], "traceback": clean(text)}

    def flush(self):
        """Lets out what Python and C libraries hold of the output."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        if len(sys.modules) != self.modules:
            self.modules = len(sys.modules)
            # Only what has C code of others in it writes past Python.
            others = any(is_foreign(module) for module in list(sys.modules.values()))
            if self.flush_c is None and others:
                try:
                    import ctypes

                    self.flush_c = ctypes.CDLL(None).fflush
                except Exception:
                    self.flush_c = lambda _: None
        if self.flush_c is not None:
            self.flush_c(None)


def without_ours(said):
    """Takes our own frames from what is to be said of an error and of those behind it."""
    for _ in range(100):
        if said is None:
            return
        said.stack[:] = [frame for frame in said.stack if frame.filename != __file__]
        said = said.__cause__ or said.__context__


def is_foreign(module):
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    return isinstance(origin, str) and (origin.endswith(".so") and "lib-dynload" not in origin or "_ctypes" in origin)


def silenced(code, node):
    """Whether a semicolon stands behind the last expression."""
    try:
        lines = code.splitlines(True)
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :]
        rest = rest + b"".join(line.encode() for line in lines[node.end_lineno :])
    except (IndexError, UnicodeEncodeError):
        return False
    return rest.lstrip(b" \t)").startswith(b";")


def main():
    wire = Wire()
    limits, _ = wire.receive()
    wire.mark = bytes.fromhex(limits["mark"])
    signal.signal(signal.SIGINT, wire.on_interrupt)
    interpreter = Interpreter(wire, limits)
    wire.send(b"S", {"version": "%d.%d.%d" % sys.version_info[:3]})
    while True:
        said, code = wire.receive()
        # An interrupt is told, too, for those that cannot rely on its signal.
        if code is not None:
            interpreter.run(said["n"], code)


main()
