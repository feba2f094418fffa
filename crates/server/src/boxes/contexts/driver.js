// The JavaScript interpreter of a context. What driver.py says of itself is true of this one, too.
//
// Cells are evaluated as Chrome's console does it (V8's REPL mode, through the inspector's protocol within this process): what is declared
// at the top level stays and can be declared anew, and `await` works there. Only imports have to be rewritten for that.
(function (require, load) {
  const fs = require("fs");
  const net = require("net");
  const path = require("path");
  const util = require("util");
  const vm = require("vm");
  const { Console } = require("console");
  const { Session } = require("inspector");
  const { createRequire } = require("module");
  const { Writable } = require("stream");
  const { pathToFileURL } = require("url");
  const { promiseHooks } = require("v8");

  // Where the server's words come from.
  const GIVEN = 3;
  // Bytes of a piece: PIPE_BUF, and without the mark and what stands behind it.
  const PIECE = 4096 - 20;
  // The lines of a stack from where the driver comes in.
  const OURS = /\n *at Session\.post \(node:inspector[^\n]*(\n +at [^\n]*)*/g;
  // What one result is shown as at most, and how long the name of such a kind is.
  const KINDS_MAX = 32;
  const KIND_BYTES_MAX = 100;
  const DISPLAY = Symbol.for("Jupyter.display");
  const IMPORT = "__boxyard_import__";
  const GROUP = "cell";
  // Those of the driver's own are taken before the user's code can change them.
  const { parse, stringify } = JSON;

  let acorn = null;
  try {
    acorn = require("internal/deps/acorn/acorn/dist/acorn");
  } catch {
    // Another version of Node: imports are found by their looks.
  }

  let limits = null;
  let mark = null;
  const nap = new Int32Array(new SharedArrayBuffer(4));

  function write(fd, bytes) {
    let done = 0;
    while (done < bytes.length) {
      try {
        done += fs.writeSync(fd, bytes, done, bytes.length - done);
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
        // Somebody who shares the pipe has made it so.
        Atomics.wait(nap, 0, 0, 1);
      }
    }
  }

  function send(kind, message, fd = 1) {
    const payload = Buffer.isBuffer(message) ? message : Buffer.from(stringify(message));
    let start = 0;
    do {
      const piece = payload.subarray(start, start + PIECE);
      const isFirst = start === 0;
      start += PIECE;
      const isLast = start >= payload.length;
      const head = Buffer.alloc(20);
      mark.copy(head);
      head.write(kind, 16);
      head.write(isFirst ? (isLast ? "." : "(") : isLast ? ")" : "-", 17);
      head.writeUInt16BE(piece.length, 18);
      write(fd, Buffer.concat([head, piece]));
    } while (start < payload.length);
  }

  // Standard output and error as they are for files: what is written is out when the call returns. It keeps nothing that an interrupt in
  // the middle could leave in disorder.
  function stream(fd) {
    const made = new Writable();
    made.write = (chunk, encoding, done) => {
      if (typeof encoding === "function") [encoding, done] = [undefined, encoding];
      write(fd, typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk);
      if (done) process.nextTick(done);
      return true;
    };
    made.end = (chunk, encoding, done) => {
      if (typeof chunk === "string" || chunk instanceof Uint8Array) made.write(chunk, encoding, done);
      return made;
    };
    made.setMaxListeners(0);
    made.fd = fd;
    made._type = "pipe";
    return made;
  }

  const shown = { count: 0, bytes: 0, cut: false };

  const whole = (text) => (text.isWellFormed && !text.isWellFormed() ? text.toWellFormed() : text);

  // A value as it is sent: a text, or for kinds that are JSON that.
  function encode(mime, value) {
    if (mime === "application/json" || mime.endsWith("+json")) {
      try {
        return stringify(value);
      } catch {
        return undefined;
      }
    }
    if (value instanceof Uint8Array) value = Buffer.from(value.buffer, value.byteOffset, value.length).toString("base64");
    if (typeof value !== "string") return undefined;
    const isBase64 = (mime.startsWith("image/") && mime !== "image/svg+xml") || mime === "application/pdf";
    // Some encoders break lines.
    if (isBase64) value = value.replace(/\s+/g, "");
    if (mime === "text/plain" && value.length > limits.text_bytes) {
      value = value.slice(0, limits.text_bytes) + "…";
      shown.cut = true;
    }
    return whole(value);
  }

  function show(bundle, main) {
    if (shown.count <= 0) {
      shown.cut = true;
      return;
    }
    const parts = [];
    for (const [mime, value] of Object.entries(bundle)) {
      const text = encode(mime, value);
      if (text === undefined) continue;
      const bytes = Buffer.from(text);
      if (bytes.length > shown.bytes || parts.length === KINDS_MAX) {
        shown.cut = true;
        continue;
      }
      shown.bytes -= bytes.length;
      parts.push([mime.slice(0, KIND_BYTES_MAX), bytes]);
    }
    shown.count -= 1;
    const head = { main, parts: parts.map(([mime, bytes]) => [mime, bytes.length]) };
    send("R", Buffer.concat([Buffer.from(stringify(head) + "\n"), ...parts.map(([, bytes]) => bytes)]));
  }

  function isPlain(value) {
    if (Array.isArray(value)) return true;
    const prototype = Object.getPrototypeOf(value);
    return prototype === null || prototype === Object.prototype;
  }

  function inspect(value) {
    try {
      const text = util.inspect(value, { depth: 4, maxStringLength: limits.text_bytes });
      return text.replace(OURS, "");
    } catch (error) {
      console.error(error);
      return Object.prototype.toString.call(value);
    }
  }

  // All that a value can be shown as; a promise of it where the value itself says so, in the way of Deno's notebooks.
  function bundleOf(value) {
    const plain = () => {
      const data = { "text/plain": inspect(value) };
      try {
        if (value !== null && typeof value === "object" && isPlain(value)) data["application/json"] = value;
      } catch {
        // A proxy that does not want to be looked at.
      }
      return data;
    };
    const failed = (error) => {
      console.error(error);
      return plain();
    };
    try {
      const own = value === null || value === undefined ? undefined : value[DISPLAY];
      if (typeof own !== "function") return plain();
      const whole = (made) => ("text/plain" in made ? { ...made } : { "text/plain": inspect(value), ...made });
      const made = own.call(value);
      return typeof made.then === "function" ? made.then(whole).catch(failed) : whole(made);
    } catch (error) {
      return failed(error);
    }
  }

  // What is being shown and must be before the cell ends.
  let showing = [];

  function display(value, options) {
    const bundle = options && options.raw ? { ...value } : bundleOf(value);
    if (typeof bundle.then !== "function") return show(bundle, false);
    const done = bundle.then((made) => show(made, false));
    showing.push(done);
    return done;
  }
  const kinds = {
    html: "text/html", markdown: "text/markdown", svg: "image/svg+xml", png: "image/png", jpeg: "image/jpeg",
    latex: "text/latex", json: "application/json",
  };
  for (const [name, mime] of Object.entries(kinds)) {
    display[name] = (value) => show({ [mime]: value }, false);
  }

  // The cell with each `import` that the console does not know replaced by something that it does. Lines stay where they are.
  function rewritten(code) {
    if (!/\bimport\b/.test(code)) return code;
    if (!acorn) return code.replace(/(?<![\w$.#])import(?=\s*\()/g, IMPORT);
    let tree;
    try {
      tree = acorn.parse(code, {
        ecmaVersion: "latest", sourceType: "script", allowHashBang: true,
        allowAwaitOutsideFunction: true, allowImportExportEverywhere: true,
      });
    } catch {
      // What is wrong with it is said by who runs it; and what is too new for the parser is run as it is.
      return code;
    }
    const changes = [];
    const visit = (node) => {
      if (!node || typeof node !== "object") return;
      if (Array.isArray(node)) return node.forEach(visit);
      if (node.type === "ImportExpression") changes.push([node.start, node.start + 6, IMPORT]);
      if (node.type === "ImportDeclaration") {
        changes.push([node.start, node.end, imported(node, code)]);
        return;
      }
      for (const name of Object.keys(node)) if (name !== "type") visit(node[name]);
    };
    visit(tree.body);
    changes.sort((a, b) => b[0] - a[0]);
    for (const [start, end, text] of changes) code = code.slice(0, start) + text + code.slice(end);
    return code;
  }

  function imported(node, code) {
    const lines = "\n".repeat(code.slice(node.start, node.end).split("\n").length - 1);
    const attributes = (node.attributes || []).map((each) => {
      const key = each.key.type === "Literal" ? each.key.value : each.key.name;
      return `${stringify(key)}: ${stringify(each.value.value)}`;
    });
    const options = attributes.length ? `, { with: { ${attributes.join(", ")} } }` : "";
    const loaded = `await ${IMPORT}(${stringify(node.source.value)}${options})`;
    if (node.specifiers.length === 0) return `${loaded};${lines}`;
    const text = (name) => (name.type === "Literal" ? stringify(name.value) : name.name);
    const named = [];
    let whole = null;
    for (const each of node.specifiers) {
      if (each.type === "ImportNamespaceSpecifier") whole = each.local.name;
      else if (each.type === "ImportDefaultSpecifier") named.push(`default: ${each.local.name}`);
      else named.push(`${text(each.imported)}: ${each.local.name}`);
    }
    if (whole === null) return `const { ${named.join(", ")} } = ${loaded};${lines}`;
    const also = named.length ? `, { ${named.join(", ")} } = ${whole}` : "";
    return `const ${whole} = ${loaded}${also};${lines}`;
  }

  const session = new Session();
  session.connect();

  // What the inspector speaks of, as it is. In an array, because it may be a promise.
  function valueOf(remote) {
    if (remote.unserializableValue) {
      const text = remote.unserializableValue;
      return [text.endsWith("n") ? BigInt(text.slice(0, -1)) : Number(text)];
    }
    if (!remote.objectId) return [remote.value];
    let found;
    const value = (value) => {
      found = value;
    };
    Object.defineProperty(globalThis, IMPORT + "take", { value, configurable: true });
    // Done when this returns.
    session.post("Runtime.callFunctionOn", {
      functionDeclaration: `(value) => void globalThis["${IMPORT}take"](value)`,
      objectId: remote.objectId,
      arguments: [{ objectId: remote.objectId }],
      silent: true,
    });
    delete globalThis[IMPORT + "take"];
    return [found];
  }

  // Node's own guard that ends a script by SIGINT is kept up all the time. So there is no moment at which the signal ends the process, and
  // none at which it ends code of ours: between scripts it does nothing. What is awaited is ended by the server's word, which comes after.
  let guard = null;
  const warn = process.emitWarning;
  try {
    process.emitWarning = () => {};
    guard = require("internal/test/binding").internalBinding("contextify");
  } catch {
    // Another version of Node: SIGINT is heard of as others do.
  } finally {
    process.emitWarning = warn;
  }

  // Ends the evaluation that goes on, if one does; and its cell.
  let interrupt = null;
  let current = 0;

  function watch() {
    // What the user's code has put in its place does not stay for the next cell.
    process.removeAllListeners("SIGINT");
    if (guard) guard.startSigintWatchdog();
    else process.on("SIGINT", () => interrupt && interrupt());
  }

  function watchAnew() {
    if (!guard || process.listenerCount("SIGINT") === 0) return;
    guard.stopSigintWatchdog();
    watch();
  }

  let evaluation = null;
  Object.defineProperty(globalThis, IMPORT + "run", { value: () => evaluation() });
  const run = new vm.Script(`${IMPORT}run()`, { filename: "boxyard:driver" });

  function interrupted() {
    const error = new Error("the code was interrupted");
    error.name = "Interrupted";
    error.stack = `${error.name}: ${error.message}`;
    return { error };
  }

  // Cells that go on. When nobody could ever keep a cell's promise any more it would be collected, and some versions of Node die of
  // what the inspector wants to say about that.
  const pending = new Set();

  // Evaluates a cell: to a value in an array, or to an error.
  function evaluate(number, code) {
    const expression = `${rewritten(code)}\n//# sourceURL=cell-${number}`;
    let promise = null;
    return new Promise((done) => {
      interrupt = () => done(interrupted());
      const ended = (failure, answer) => {
        pending.delete(promise);
        if (failure) return done(interrupted());
        const { result, exceptionDetails: details } = answer;
        if (details) done({ error: valueOf(details.exception || { value: details.text })[0], details });
        else done({ value: valueOf(result) });
      };
      evaluation = () => session.post("Runtime.evaluate", { expression, replMode: true, objectGroup: GROUP }, ended);
      // The first promise that is made is the cell's own.
      const unwatch = promiseHooks.onInit((made) => {
        if (promise) return;
        promise = made;
        pending.add(made);
      });
      try {
        // SIGINT ends this as long as nothing has been awaited.
        run.runInThisContext({ breakOnSigint: true });
      } catch (error) {
        done(error.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED" ? interrupted() : { error });
      } finally {
        unwatch();
      }
    }).finally(() => {
      interrupt = null;
    });
  }

  function cut(text, most) {
    return text.length > most ? `${text.slice(0, most / 2)}\n…\n${text.slice(-most / 2)}` : text;
  }

  // An error as it is told: without the frames that are ours.
  function told(error, details, number) {
    const most = limits.error_bytes;
    let name = "Error";
    let message = "";
    let trace = "";
    try {
      if (error instanceof Error || (error && typeof error.stack === "string")) {
        name = String(error.name);
        message = String(error.message);
        trace = String(error.stack).replace(OURS, "");
        if (name === "SyntaxError" && details && !trace.includes(`cell-${number}:`)) {
          trace += `\n    at cell-${number}:${details.lineNumber + 1}:${details.columnNumber + 1}`;
        }
        if (error.cause !== undefined) trace += `\n[cause]: ${inspect(error.cause)}`;
      } else {
        name = error === null ? "null" : typeof error;
        message = typeof error === "string" ? error : inspect(error);
        trace = `Uncaught ${inspect(error)}`;
      }
    } catch {
      message = "<no text>";
    }
    return {
      name: whole(name.slice(0, 200)), message: whole(message.slice(0, most / 2)), traceback: whole(cut(trace, most)),
    };
  }

  async function cell(number, code) {
    shown.count = limits.results;
    shown.bytes = limits.result_bytes;
    shown.cut = false;
    showing = [];
    current = number;
    watchAnew();
    let error = null;
    const came = await evaluate(number, code);
    try {
      if (came.value) {
        const [value] = came.value;
        await Promise.allSettled(showing);
        if (value !== undefined) show(await bundleOf(value), true);
      } else {
        error = told(came.error, came.details, number);
      }
    } catch (caught) {
      error = told(caught, null, number);
    }
    session.post("Runtime.releaseObjectGroup", { objectGroup: GROUP });
    if (error) send("E", error);
    // Standard error is complete, and then so is standard output.
    send("D", { n: number }, 2);
    send("D", { n: number, cut: shown.cut });
  }

  function begin() {
    const out = stream(1);
    const err = stream(2);
    for (const [name, value] of [["stdout", out], ["stderr", err]]) {
      Object.defineProperty(process, name, { value, configurable: true, enumerable: true, writable: true });
    }
    watch();
    globalThis.console = new Console({ stdout: out, stderr: err });
    const here = createRequire(path.join(process.cwd(), "cell.js"));
    for (const name of ["module", "exports", "__filename", "__dirname"]) delete globalThis[name];
    const hidden = { configurable: true, writable: true, enumerable: false };
    Object.defineProperty(globalThis, "require", { ...hidden, value: here });
    Object.defineProperty(globalThis, "display", { ...hidden, value: display });
    Object.defineProperty(globalThis, IMPORT, {
      ...hidden,
      value: (name, options) => {
        const file = /^\.{0,2}\//.test(name) ? pathToFileURL(path.resolve(name)).href : name;
        return load(file, options);
      },
    });
    const late = (error) => console.error("Uncaught (after its cell, or beside it)", error);
    process.on("uncaughtException", late);
    process.on("unhandledRejection", late);
  }

  let waiting = Buffer.alloc(0);
  const parts = [];
  let have = 0;
  // Cells one after the other.
  let turn = Promise.resolve();

  function take(message) {
    if (!limits) {
      limits = parse(message);
      mark = Buffer.from(limits.mark, "hex");
      begin();
      send("S", { version: process.versions.node });
      return;
    }
    const end = message.indexOf("\n");
    const { n, interrupt: which } = parse(end < 0 ? message : message.slice(0, end));
    if (which !== undefined) {
      if (which === current && interrupt) interrupt();
      return;
    }
    turn = turn.then(() => cell(n, message.slice(end + 1)));
  }

  const given = new net.Socket({ fd: GIVEN, readable: true, writable: false });
  given.on("data", (bytes) => {
    parts.push(bytes);
    have += bytes.length;
    if (waiting.length === 0 && have < 4) return;
    // Long code comes in many pieces: they are joined once.
    const need = parts[0].length >= 4 ? parts[0].readUInt32BE(0) + 4 : 4;
    if (have < need) return;
    waiting = Buffer.concat(parts);
    parts.length = 0;
    while (waiting.length >= 4) {
      const end = 4 + waiting.readUInt32BE(0);
      if (waiting.length < end) break;
      take(waiting.toString("utf8", 4, end));
      waiting = waiting.subarray(end);
    }
    have = waiting.length;
    if (have > 0) parts.push(waiting);
    waiting = Buffer.alloc(0);
  });
  given.on("close", () => process.exit(0));
})
//# sourceURL=boxyard:driver
