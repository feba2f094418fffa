//! The drivers as they are, run by this host's own `python3` and `node`.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use boxyard_proto::api::contexts::CodeError;
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::super::frames::{Heard, Shown, Split, Value, WORDS_MAX, Word};
use super::*;
use crate::boxes::output::Budget;

/// How long anything may take that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Driver {
    child: Child,
    stdin: ChildStdin,
    out: (ChildStdout, Split),
    err: (ChildStderr, Split),
    waiting: VecDeque<(bool, Heard)>,
    cells: u64,
}

/// What came of a cell.
#[derive(Debug, Default)]
struct Came {
    out: String,
    err: String,
    shown: Vec<Shown>,
    error: Option<CodeError>,
    cut: bool,
    /// Results and standard output in their order.
    order: String,
}

impl Came {
    /// The text of the main result.
    fn value(&self) -> &str {
        let main = self.shown.iter().find(|shown| shown.is_main);
        main.map(|shown| text(shown, "text/plain")).unwrap_or_else(|| panic!("no value: {self:?}"))
    }

    fn error(&self) -> &CodeError {
        self.error.as_ref().unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

fn text<'a>(shown: &'a Shown, kind: &str) -> &'a str {
    match shown.data.get(kind) {
        Some(Value::Text(text) | Value::Json(text)) => str::from_utf8(text).expect("text"),
        None => panic!("no {kind} in {shown:?}"),
    }
}

impl Driver {
    async fn start(language: ContextLanguage) -> Self {
        Self::start_with(language, 256, 16 << 20).await
    }

    async fn start_with(language: ContextLanguage, results: usize, bytes: usize) -> Self {
        let argv = argv(language);
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir("/tmp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("this test needs python3 and node");
        let mark = Mark::random();
        let budget = Budget::new(0, 1 << 30);
        let split = || Split::new(&mark, bytes + WORDS_MAX, &budget);
        let mut driver = Self {
            stdin: child.stdin.take().expect("a pipe"),
            out: (child.stdout.take().expect("a pipe"), split()),
            err: (child.stderr.take().expect("a pipe"), split()),
            child,
            waiting: VecDeque::new(),
            cells: 0,
        };
        driver.stdin.write_all(&setup(language, &mark, results, bytes)).await.expect("write");
        let heard = driver.next().await;
        let Some((true, Heard::Said(b'S', _))) = heard else { panic!("not ready: {heard:?}") };
        driver
    }

    /// The next thing that is heard, and whether on standard output; nothing when the interpreter has ended.
    async fn next(&mut self) -> Option<(bool, Heard)> {
        let reading = async {
            let (mut out_open, mut err_open) = (true, true);
            loop {
                if let Some(heard) = self.waiting.pop_front() {
                    return Some(heard);
                }
                if !out_open && !err_open {
                    return None;
                }
                let (mut out, mut err) = (vec![0; 65536], vec![0; 65536]);
                let (is_out, bytes) = tokio::select! {
                    read = self.out.0.read(&mut out), if out_open => (true, out[..read.expect("read")].to_vec()),
                    read = self.err.0.read(&mut err), if err_open => (false, err[..read.expect("read")].to_vec()),
                };
                let (open, split) =
                    if is_out { (&mut out_open, &mut self.out.1) } else { (&mut err_open, &mut self.err.1) };
                *open = !bytes.is_empty();
                split.push(Bytes::from(bytes));
                while let Some(heard) = split.next().expect("well-formed") {
                    self.waiting.push_back((is_out, heard));
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("the interpreter says nothing")
    }

    async fn send(&mut self, code: &str) {
        self.cells += 1;
        self.stdin.write_all(&cell(self.cells, code)).await.expect("write");
    }

    /// Follows the cell that was sent. `None` when the interpreter has ended.
    async fn follow(&mut self) -> Option<Came> {
        let (mut came, mut ends) = (Came::default(), 0);
        while ends < 2 {
            match self.next().await? {
                (true, Heard::Written(bytes)) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    came.order.push_str(&text);
                    came.out.push_str(&text);
                }
                (_, Heard::Dropped(_)) => panic!("there is memory"),
                (false, Heard::Written(bytes)) => came.err.push_str(&String::from_utf8_lossy(&bytes)),
                (_, Heard::Said(kind, message)) => match Word::read(kind, &message).expect("a word") {
                    Word::Result(shown) => {
                        came.order.push('*');
                        came.shown.push(shown);
                    }
                    Word::Error(error) => came.error = Some(error),
                    Word::Done { n, cut } => {
                        assert_eq!(n, self.cells);
                        came.cut |= cut;
                        ends += 1;
                    }
                    Word::Ready => panic!("ready twice"),
                },
            }
        }
        Some(came)
    }

    async fn run(&mut self, code: &str) -> Came {
        self.send(code).await;
        self.follow().await.expect("the interpreter lives")
    }

    /// Runs code and interrupts it when it has written something, as the server does.
    async fn interrupt(&mut self, code: &str) -> Came {
        self.send(code).await;
        while self.waiting.is_empty() {
            let heard = self.next().await.expect("the interpreter lives");
            self.waiting.push_front(heard);
        }
        interrupt(&mut self.child);
        self.stdin.write_all(&super::interrupt(self.cells)).await.expect("write");
        self.follow().await.expect("the interpreter lives")
    }
}

fn interrupt(child: &mut Child) {
    let pid = Pid::from_raw(child.id().expect("it runs").cast_signed()).expect("a pid");
    kill_process_group(pid, Signal::INT).expect("a signal");
}

async fn python() -> Driver {
    Driver::start(ContextLanguage::Python).await
}

async fn js() -> Driver {
    Driver::start(ContextLanguage::Js).await
}

#[tokio::test]
async fn python_keeps_what_a_notebook_keeps() {
    let mut it = python().await;
    let nothing = it.run("import math\nx = 6\ndef f(): return x * 7\n").await;
    assert!(nothing.shown.is_empty() && nothing.error.is_none(), "{nothing:?}");
    assert_eq!(it.run("f()").await.value(), "42");
    assert_eq!(it.run("x = 1; f()").await.value(), "7");
    assert_eq!(it.run("math.floor(2.5)").await.value(), "2");
    it.run("import os; os.chdir('/')").await;
    assert_eq!(it.run("os.getcwd()").await.value(), "'/'");
    assert!(it.run("x;").await.shown.is_empty(), "a semicolon keeps it quiet");
    assert!(it.run("None").await.shown.is_empty());
    assert_eq!(it.run("__name__").await.value(), "'__main__'");
    assert_eq!(it.run("import inspect; inspect.getsource(f)").await.value(), "'def f(): return x * 7\\n'");
}

#[tokio::test]
async fn python_awaits_at_the_top_level() {
    let mut it = python().await;
    it.run("import asyncio\nasync def g():\n    await asyncio.sleep(0)\n    return 'awaited'").await;
    assert_eq!(it.run("await g()").await.value(), "'awaited'");
    it.run("y = await g()").await;
    assert_eq!(it.run("y").await.value(), "'awaited'");
    assert_eq!(it.run("asyncio.run(g())").await.value(), "'awaited'");
    let error = it.run("await asyncio.wait_for(asyncio.sleep(100), 0.001)").await;
    assert_eq!(error.error().name, "TimeoutError");
}

#[tokio::test]
async fn python_tells_errors_without_frames_of_ours() {
    let mut it = python().await;
    let came = it.run("def f():\n    return 1 / 0\n\nf()").await;
    let error = came.error();
    assert_eq!((error.name.as_str(), error.message.as_str()), ("ZeroDivisionError", "division by zero"));
    assert!(error.traceback.contains("File \"<cell 1>\", line 2, in f\n    return 1 / 0"), "{}", error.traceback);
    assert!(!error.traceback.contains("boxyard"), "{}", error.traceback);
    assert_eq!(it.run("1 +").await.error().name, "SyntaxError");
    let exit = it.run("raise SystemExit(3)").await;
    assert_eq!((exit.error().name.as_str(), exit.error().message.as_str()), ("SystemExit", "3"));
    assert_eq!(it.run("exit()").await.error().name, "SystemExit");
    assert_eq!(it.run("input()").await.error().name, "EOFError");
    assert_eq!(it.run("class E(Exception):\n  def __str__(self): raise self\nraise E()").await.error().name, "E");
    let chained = it.run("try:\n    1 / 0\nexcept Exception as e:\n    raise KeyError('k') from e").await;
    assert!(chained.error().traceback.contains("ZeroDivisionError"), "{}", chained.error().traceback);
}

#[tokio::test]
async fn python_s_output_and_that_of_all_that_it_starts_is_told_from_results() {
    let mut it = python().await;
    let came = it
        .run("import os, subprocess, sys\nprint('a')\ndisplay(1)\nsubprocess.run('echo b; echo c >&2', shell=True)\nos.write(1, b'd\\n')\nprint('e', file=sys.stderr)\n2")
        .await;
    assert_eq!((came.out.as_str(), came.err.as_str()), ("a\nb\nd\n", "c\ne\n"));
    assert_eq!(came.order, "a\n*b\nd\n*");
    let c = it.run("import ctypes; ctypes.CDLL(None).printf(b'from C\\n');").await;
    assert_eq!(c.out, "from C\n");
    let child = it.run("pid = os.fork()\nif pid == 0: print('child'); display('lost')\nelse: os.waitpid(pid, 0)").await;
    assert_eq!((child.out.as_str(), child.shown.len()), ("child\n", 0));
    assert_eq!(it.run("print('\\ud800')").await.out, "\\ud800\n");
    let closed = it.run("os.close(1); 5").await;
    assert_eq!(closed.value(), "5");
    let moved = it.run("f = os.open('/dev/null', os.O_WRONLY); os.dup2(f, 1); os.dup2(f, 2); 6").await;
    assert_eq!(moved.value(), "6");
}

#[tokio::test]
async fn python_shows_values_as_all_that_they_can_be_shown_as() {
    let mut it = python().await;
    let rich = "class Rich:\n  def _repr_html_(self): return '<b>x</b>'\n  def _repr_png_(self): return b'png'\n  def _repr_json_(self): return {'a': float('nan')}\n  def __repr__(self): return 'rich'\nRich()";
    let came = it.run(rich).await;
    let main = &came.shown[0];
    assert_eq!(came.value(), "rich");
    assert_eq!(text(main, "text/html"), "<b>x</b>");
    assert_eq!(text(main, "image/png"), "cG5n");
    assert_eq!(text(main, "application/json"), "{\"a\":null}");
    let came = it.run("display(Rich(), include=['text/html']); display({'text/markdown': '*x*', 'image/png': 'cG\\n5n', 'no mime': 'x'}, raw=True)").await;
    assert_eq!(came.shown.len(), 2);
    assert_eq!(came.shown[0].data.keys().collect::<Vec<_>>(), ["text/html"]);
    assert_eq!(came.shown[1].data.keys().collect::<Vec<_>>(), ["image/png", "text/markdown"]);
    let bundle = "class B:\n  def _repr_mimebundle_(self, include=None, exclude=None): return {'application/vnd.x+json': {'k': [1]}}, {}\nB()";
    assert_eq!(text(&it.run(bundle).await.shown[0], "application/vnd.x+json"), "{\"k\":[1]}");
    let broken = it.run("class X:\n  def _repr_html_(self): 1 / 0\n  def __repr__(self): return 'x'\nX()").await;
    assert!(broken.value() == "x" && broken.err.contains("ZeroDivisionError"), "{broken:?}");
    assert_eq!(
        it.run(
            "class Y:\n  def __getattr__(self, name): return lambda *a: 'trap'\n  def __repr__(self): return 'y'\nY()"
        )
        .await
        .value(),
        "y"
    );
}

#[tokio::test]
async fn python_shows_so_much_and_no_more() {
    let mut it = Driver::start_with(ContextLanguage::Python, 3, 100_000).await;
    let many = it.run("for i in range(10): display(i)").await;
    assert!(many.shown.len() == 3 && many.cut, "{many:?}");
    let long = it.run("display({'text/html': 'x' * 200_000, 'text/plain': 'short'}, raw=True)").await;
    assert!(long.cut && long.shown[0].data.len() == 1, "{long:?}");
    let fine = it.run("'ü' * 40_000").await;
    assert!(!fine.cut && fine.value().chars().count() == 40_002);
}

#[tokio::test]
async fn python_is_interrupted_and_goes_on_with_its_variables() {
    let mut it = python().await;
    it.run("import time, asyncio\nkept = 5").await;
    for code in [
        "print('on', flush=True)\nwhile True: pass",
        "print('on')\ntime.sleep(1000)",
        "print('on')\nawait asyncio.sleep(1000)",
        "import subprocess\nprint('on')\nsubprocess.run(['sleep', '1000'])",
    ] {
        let came = it.interrupt(code).await;
        assert_eq!(came.error().name, "KeyboardInterrupt", "{code}");
        assert!(!came.error().traceback.contains("boxyard"), "{came:?}");
    }
    let caught =
        it.interrupt("try:\n    print('on')\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    pass\nkept").await;
    assert_eq!(caught.value(), "5");
    // One that comes when nothing runs is nobody's.
    interrupt(&mut it.child);
    assert_eq!(it.run("kept").await.value(), "5");
}

#[tokio::test]
async fn an_interrupt_while_much_is_shown_breaks_nothing_in_two() {
    let mut it = python().await;
    for _ in 0..20 {
        let came = it.interrupt("print('on')\nwhile True: display('x' * 100_000); print('y')").await;
        assert_eq!(came.error().name, "KeyboardInterrupt");
        assert!(came.shown.iter().all(|shown| text(shown, "text/plain").len() == 100_002));
    }
}

#[tokio::test]
async fn python_that_ends_is_gone() {
    for code in ["import os; os._exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"] {
        let mut it = python().await;
        it.send(code).await;
        assert!(it.follow().await.is_none());
    }
}

#[tokio::test]
async fn modules_in_the_working_folder_do_not_take_the_driver_s_place() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("json.py"), "raise SystemExit('hijacked')").expect("write");
    std::fs::write(folder.path().join("mine.py"), "value = 'mine'").expect("write");
    let argv = argv(ContextLanguage::Python);
    let mark = Mark::random();
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&setup(ContextLanguage::Python, &mark, 1, 1000)).await.expect("write");
    stdin.write_all(&cell(1, "import mine; print(mine.value)")).await.expect("write");
    drop(stdin);
    let said = timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("output").stdout;
    assert!(memchr::memmem::find(&said, b"mine\n").is_some(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn js_keeps_what_is_declared_and_lets_it_be_declared_anew() {
    let mut it = js().await;
    it.run("let a = 1; const b = 2; class C { n = 3 }; function f() { return a + b }").await;
    assert_eq!(it.run("f() + new C().n").await.value(), "6");
    it.run("let a = 10; const b = 20; class C { n = 30 }; function f() { return a + b + 1 }").await;
    assert_eq!(it.run("f() + new C().n").await.value(), "61");
    assert!(it.run("undefined").await.shown.is_empty());
    for (code, value) in [
        ("10n", "10n"),
        ("-0", "-0"),
        ("NaN", "NaN"),
        ("null", "null"),
        ("Symbol('s')", "Symbol(s)"),
        ("new Map([[1, 2]])", "Map(1) { 1 => 2 }"),
        ("Promise.resolve(3)", "Promise { 3 }"),
        ("'text'", "'text'"),
        ("this === globalThis", "true"),
        ("JSON.stringify = null; 7", "7"),
        ("({ then(done) { done(8) } })", "{ then: [Function: then] }"),
    ] {
        assert_eq!(it.run(code).await.value(), value, "{code}");
    }
}

#[tokio::test]
async fn js_awaits_and_imports_at_the_top_level() {
    let mut it = js().await;
    assert_eq!(
        it.run("const later = await new Promise((done) => setTimeout(() => done('late'), 1)); later").await.value(),
        "'late'"
    );
    let code = "import fs, { readFileSync as read } from 'node:fs';\nimport * as os from 'os';\nimport 'path';\n[typeof fs.statSync, typeof read, typeof os.cpus].join()";
    assert_eq!(it.run(code).await.value(), "'function,function,function'");
    assert_eq!(it.run("const { sep } = await import('node:path'); sep").await.value(), "'/'");
    assert_eq!(it.run("const get = async () => (await import('url')).URL.name; await get()").await.value(), "'URL'");
    assert_eq!(it.run("require('path').sep").await.value(), "'/'");
    assert_eq!(it.run("// import('x')\n'import(\"y\")'.length").await.value(), "11");
    let error = it.run("import fs from 'fs'\n\nnull.x").await;
    assert!(error.error().traceback.contains(":3:"), "lines stay where they are: {error:?}");
    assert_eq!(it.run("for await (const x of [1, 2]) console.log(x)").await.out, "1\n2\n");
}

#[tokio::test]
async fn js_tells_errors_without_frames_of_ours() {
    let mut it = js().await;
    let came = it.run("function f() { null.x }\nf()").await;
    let error = came.error();
    assert_eq!(error.name, "TypeError");
    assert!(error.traceback.contains("at f (cell-1:1:") && error.traceback.contains("at cell-1:2:1"), "{error:?}");
    assert!(!error.traceback.contains("boxyard") && !error.traceback.contains("inspector"), "{error:?}");
    let syntax = it.run("1 +").await;
    assert!(syntax.error().name == "SyntaxError" && syntax.error().traceback.contains("cell-2:"), "{syntax:?}");
    assert_eq!(it.run("throw 5").await.error().message, "5");
    assert_eq!(it.run("await Promise.reject(new RangeError('r'))").await.error().name, "RangeError");
    assert_eq!(it.run("new Error('shown')").await.value(), "Error: shown\n    at cell-5:1:1");
    let late = it
        .run("setTimeout(() => { throw new Error('late') }, 1); await new Promise((done) => setTimeout(done, 20))")
        .await;
    assert!(late.err.contains("Error: late") && late.error.is_none(), "{late:?}");
}

#[tokio::test]
async fn js_shows_values_as_all_that_they_can_be_shown_as() {
    let mut it = js().await;
    let came = it.run("console.log('a'); display({ x: [1, { y: null }] }); require('child_process').execSync('echo b; echo c >&2', { stdio: 'inherit' }); process.stderr.write('d\\n'); [1, 2]").await;
    assert_eq!((came.out.as_str(), came.err.as_str(), came.order.as_str()), ("a\nb\n", "c\nd\n", "a\n*b\n*"));
    assert_eq!(text(&came.shown[0], "application/json"), "{\"x\":[1,{\"y\":null}]}");
    assert_eq!(text(&came.shown[1], "application/json"), "[1,2]");
    let own = "({ [Symbol.for('Jupyter.display')]: async () => ({ 'text/html': '<b>' }) })";
    assert_eq!(text(&it.run(own).await.shown[0], "text/html"), "<b>");
    assert_eq!(text(&it.run(&format!("display({own}); 1")).await.shown[0], "text/html"), "<b>");
    let kinds = it
        .run("display.html('<i>'); display.png(Buffer.from('png')); display({ 'text/markdown': '*' }, { raw: true })")
        .await;
    assert_eq!(text(&kinds.shown[0], "text/html"), "<i>");
    assert_eq!(text(&kinds.shown[1], "image/png"), "cG5n");
    assert_eq!(text(&kinds.shown[2], "text/markdown"), "*");
    let circle = it.run("const o = {}; o.o = o; o").await;
    assert_eq!((circle.value(), circle.shown[0].data.len()), ("<ref *1> { o: [Circular *1] }", 1));
}

#[tokio::test]
async fn js_is_interrupted_and_goes_on_with_its_variables() {
    let mut it = js().await;
    it.run("let kept = 5").await;
    for code in [
        "console.log('on'); while (true) {}",
        "console.log('on'); await new Promise(() => {})",
        // Those before must not be collected now: some versions of Node die of it.
        "console.log('on'); for (;;) JSON.stringify({})",
        "console.log('on'); await new Promise((done) => setTimeout(done, 1_000_000))",
    ] {
        let came = it.interrupt(code).await;
        assert_eq!(came.error().name, "Interrupted", "{code}: {came:?}");
    }
    assert_eq!(it.run("kept").await.value(), "5");
}

#[tokio::test]
async fn an_interrupt_of_js_while_much_is_shown_breaks_nothing_in_two() {
    let mut it = js().await;
    for _ in 0..20 {
        let came = it.interrupt("console.log('on'); for (;;) { display('x'.repeat(9_000)); console.log('y') }").await;
        assert_eq!(came.error().name, "Interrupted");
        assert!(came.shown.iter().all(|shown| text(shown, "text/plain").len() == 9_002));
    }
    assert_eq!(it.run("console.log('z'); 1").await.out, "z\n");
}

#[tokio::test]
async fn js_that_ends_is_gone() {
    let mut it = js().await;
    it.send("process.exit(3)").await;
    assert!(it.follow().await.is_none());
    assert_eq!(it.child.wait().await.expect("an end").code(), Some(3));
}

#[tokio::test]
async fn long_code_comes_whole() {
    let long = format!("x = '{}'\nlen(x)", "ü".repeat(2_000_000));
    assert_eq!(python().await.run(&long).await.value(), "2000000");
    let long = format!("const x = '{}';\nx.length", "ü".repeat(2_000_000));
    assert_eq!(js().await.run(&long).await.value(), "2000000");
}
