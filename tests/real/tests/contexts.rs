//! Contexts in real boxes: interpreters whose variables live between calls.

#![forbid(unsafe_code)]

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Answer, Client, Server, Settings, until};
use serde_json::{Value, json};

/// How long anything may take that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A context, by its path.
struct Notebook {
    client: Client,
    path: String,
}

impl Notebook {
    fn open(server: &Server, id: &str, language: &str) -> Result<Self> {
        let body = json!({ "language": language });
        let made = server.call("POST", &format!("/v2/box/{id}/contexts"), Some(&body))?;
        ensure!(made.status == 201, "{}: {}", made.status, made.text());
        let context = made.json()?["id"].as_str().context("an id")?.to_owned();
        Ok(Self { client: server.client().clone(), path: format!("/v2/box/{id}/contexts/{context}") })
    }

    fn post(&self, what: &str, body: &Value) -> Result<Answer> {
        self.client.call("POST", &format!("{}/{what}", self.path), Some(body))
    }

    /// What came of code.
    fn run(&self, code: &str) -> Result<Value> {
        self.post("code", &json!({ "code": code }))?.ok()
    }

    /// The text of the code's main result.
    fn value(&self, code: &str) -> Result<String> {
        let came = self.run(code)?;
        let results = came["results"].as_array().context("results")?;
        let main = results.iter().find(|result| result["is_main"] == true);
        let main = main.with_context(|| format!("{code} has no value: {came}"))?;
        Ok(main["text/plain"].as_str().context("a text")?.to_owned())
    }

    /// The name of the error that the code ends with.
    fn error(&self, code: &str) -> Result<Value> {
        Ok(self.run(code)?["error"]["name"].clone())
    }

    fn status(&self) -> Result<Value> {
        Ok(self.client.call("GET", &self.path, None)?.ok()?["status"].clone())
    }

    /// Starts code in a thread of its own and returns when it has made this file, which is removed.
    fn begin(&self, server: &Server, id: &str, code: &str) -> Result<thread::JoinHandle<Result<Answer>>> {
        let (client, path) = (self.client.clone(), format!("{}/code", self.path));
        let body = json!({ "code": code });
        let running = thread::spawn(move || client.call("POST", &path, Some(&body)));
        until("the code to begin", PATIENCE, || Ok((server.exec(id, "rm /tmp/begun")?.code == 0).then_some(())))?;
        Ok(running)
    }
}

fn finish(running: thread::JoinHandle<Result<Answer>>) -> Result<Answer> {
    running.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

/// How many interpreters of contexts there are in the box.
fn interpreters(server: &Server, id: &str) -> Result<usize> {
    Ok(server.exec(id, "pgrep -f 'boxyard-contex[t]'")?.out.lines().count())
}

#[test]
fn a_notebook_of_python() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let it = Notebook::open(&server, &id, "python")?;
    it.run("import os, math\nx = 6\ndef f(): return x * 7")?;
    ensure!(it.value("f()")? == "42");
    ensure!(it.value("os.getcwd(), os.getuid(), os.environ['HOME']")? == "('/workspace/home', 1000, '/home/boxuser')");
    it.run("os.chdir('/tmp')")?;
    ensure!(it.value("os.getcwd()")? == "'/tmp'");
    let came = it.run("display({'text/html': '<b>'}, raw=True)\nprint('out')\nx")?;
    ensure!(came["results"] == json!([{"is_main": false, "text/html": "<b>"}, {"is_main": true, "text/plain": "6"}]));
    ensure!(came["stdout"] == "out\n" && came["execution_count"] == 6, "{came}");
    let said = it.run("import subprocess; subprocess.run('echo from a child; echo oops >&2', shell=True);")?;
    ensure!(said["stdout"] == "from a child\n" && said["stderr"] == "oops\n", "{said}");
    let error = it.run("def g():\n    return 1 / 0\ng()")?["error"].clone();
    ensure!(error["name"] == "ZeroDivisionError" && error["message"] == "division by zero", "{error}");
    let trace = error["traceback"].as_str().context("a text")?;
    ensure!(trace.contains("line 2, in g\n    return 1 / 0") && !trace.contains("boxyard"), "{trace}");
    it.run("import asyncio\nasync def later(): return await asyncio.sleep(0, 'awaited')")?;
    ensure!(it.value("await later()")? == "'awaited'");
    // 200,000 lines come whole and in order.
    let many = it.run("for i in range(200_000): print(i)")?;
    let lines = many["stdout"].as_str().context("a text")?;
    ensure!(lines.lines().enumerate().all(|(n, line)| line == n.to_string()) && lines.lines().count() == 200_000);
    Ok(())
}

#[test]
fn a_notebook_of_javascript() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let it = Notebook::open(&server, &id, "js")?;
    it.run("let a = 1; const b = 2; class C { n = 3 }; function f() { return a + b }")?;
    ensure!(it.value("f() + new C().n")? == "6");
    it.run("let a = 10; const b = 20; class C { n = 30 }")?;
    ensure!(it.value("f() + new C().n")? == "60");
    ensure!(it.value("process.cwd()")? == "'/workspace/home'");
    let came = it.run(
        "console.log('out'); require('child_process').execSync('echo oops >&2', { stdio: 'inherit' }); ({ x: [1] })",
    )?;
    ensure!(came["stdout"] == "out\n" && came["stderr"] == "oops\n", "{came}");
    ensure!(
        came["results"] == json!([{"is_main": true, "application/json": {"x": [1]}, "text/plain": "{ x: [ 1 ] }"}])
    );
    ensure!(it.value("const { sep } = await import('node:path'); sep")? == "'/'");
    server.sh(&id, "echo 'export const mine = 5' > mine.mjs")?;
    ensure!(it.value("import { mine } from './mine.mjs'\nmine")? == "5");
    ensure!(it.value("await new Promise((done) => setTimeout(done, 5, 'later'))")? == "'later'");
    let error = it.run("function g() { null.x }\ng()")?["error"].clone();
    ensure!(
        error["name"] == "TypeError" && error["traceback"].as_str().is_some_and(|text| text.contains("at g (cell-"))
    );
    Ok(())
}

#[test]
fn code_is_interrupted_timed_out_and_replaced_when_it_does_not_stop() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for (language, set, endless, error, deaf) in [
        (
            "python",
            "import time\nkept = 5",
            "open('/tmp/begun', 'w').close()\ntime.sleep(1000)",
            "KeyboardInterrupt",
            "while True:\n    try:\n        time.sleep(1000)\n    except KeyboardInterrupt:\n        pass",
        ),
        (
            "js",
            "const kept = 5",
            "require('fs').writeFileSync('/tmp/begun', ''); while (true) {}",
            "Interrupted",
            "await null; while (true) {}",
        ),
    ] {
        let it = Notebook::open(&server, &id, language)?;
        it.run(set)?;
        let running = it.begin(&server, &id, endless)?;
        ensure!(it.status()? == "busy");
        ensure!(it.post("interrupt", &json!({}))?.ok()? == json!({ "interrupted": true }));
        let came = finish(running)?.ok()?;
        ensure!(came["error"]["name"] == error, "{came}");
        let late = it.post("code", &json!({ "code": endless, "timeout": 100 }))?.ok()?;
        let message = late["error"]["message"].as_str().context("a message")?;
        ensure!(late["error"]["name"] == "Timeout" && message.contains("variables are kept"), "{late}");
        ensure!(it.value("kept")? == "5", "{language}");
        let late = it.post("code", &json!({ "code": deaf, "timeout": 100 }))?.ok()?;
        let message = late["error"]["message"].as_str().context("a message")?;
        ensure!(late["error"]["name"] == "Timeout" && message.contains("started anew"), "{late}");
        ensure!(matches!(it.error("kept")?.as_str(), Some("NameError" | "ReferenceError")), "{language}");
        it.client.call("DELETE", &it.path, None)?.ok()?;
        ensure!(interpreters(&server, &id)? == 0, "{language}");
    }
    Ok(())
}

#[test]
fn an_interpreter_that_ends_says_so_and_comes_back_empty() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for (language, code, how) in [
        ("python", "import os; print('last'); os._exit(3)", "exit code 3"),
        ("python", "import os, signal; print('last'); os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("python", "import os, signal; print('last'); os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("js", "console.log('last'); process.exit(3)", "exit code 3"),
    ] {
        let it = Notebook::open(&server, &id, language)?;
        let came = it.run(code)?;
        ensure!(came["error"]["name"] == "InterpreterEnded" && came["stdout"] == "last\n", "{came}");
        ensure!(came["error"]["message"].as_str().is_some_and(|text| text.contains(how)), "{came}");
        ensure!(it.status()? == "ended");
        let next = it.run("1 + 1")?;
        ensure!(next["note"].as_str().is_some_and(|note| note.contains(how)), "{next}");
        ensure!(next["results"][0]["text/plain"] == "2" && it.run("1")?["note"] == Value::Null);
        it.client.call("DELETE", &it.path, None)?.ok()?;
    }
    // What the kernel takes for want of memory is no more than that.
    let it = Notebook::open(&server, &id, "python")?;
    let came = it.run("x = []\nwhile True: x.append(bytearray(10**8))")?;
    let name = &came["error"]["name"];
    ensure!(name == "InterpreterEnded" || name == "MemoryError", "{came}");
    ensure!(it.value("1 + 1")? == "2");
    Ok(())
}

#[test]
fn two_contexts_at_once_know_nothing_of_each_other_and_accounts_nothing_at_all() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let (one, two) = (Notebook::open(&server, &id, "python")?, Notebook::open(&server, &id, "python")?);
    let running = one.begin(&server, &id, "x = 1\nimport time\nopen('/tmp/begun', 'w').close()\ntime.sleep(1000)")?;
    ensure!(two.error("x")? == "NameError", "the other one runs code meanwhile");
    two.run("x = 2")?;
    one.post("interrupt", &json!({}))?.ok()?;
    finish(running)?.ok()?;
    ensure!((one.value("x")?, two.value("x")?) == ("1".into(), "2".into()));
    let said = server.program(&["key", "create", "--account", "other"])?;
    let key = said.split_whitespace().find(|word| word.starts_with("box_")).context("no key was printed")?;
    let other = server.client().with_key(key);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/restart"), ("POST", "/interrupt"), ("POST", "/code")]
    {
        let answer = other.call(method, &format!("{}{path}", one.path), Some(&json!({ "code": "1" })))?;
        ensure!(answer.status == 404 && answer.text().contains("Box not found"), "{method} {path}: {}", answer.text());
    }
    let list = format!("/v2/box/{id}/contexts");
    ensure!(other.call("GET", &list, None)?.status == 404);
    // Everything that the code has started ends with its context, and what the other one started does not.
    for it in [&one, &two] {
        it.run("import subprocess\np = subprocess.Popen(['setsid', '--fork', 'sleep', '4723'], start_new_session=True); p.wait()")?;
    }
    let sleeping = || -> Result<usize> { Ok(server.exec(&id, "pgrep -f 'sleep 472[3]'")?.out.lines().count()) };
    until("both to sleep", PATIENCE, || Ok((sleeping()? == 2).then_some(())))?;
    one.client.call("DELETE", &one.path, None)?.ok()?;
    ensure!((sleeping()?, interpreters(&server, &id)?) == (1, 1));
    ensure!(server.call("GET", &list, None)?.ok()?["contexts"].as_array().map(Vec::len) == Some(1));
    ensure!(server.call("GET", &one.path, None)?.status == 410);
    Ok(())
}

#[test]
fn a_frozen_context_goes_on_with_its_variables_and_ends_with_its_box() -> Result<()> {
    let settings = Settings::from([("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "1h".to_owned())]);
    let server = Server::with(settings)?;
    let id = server.create()?;
    let (python, js) = (Notebook::open(&server, &id, "python")?, Notebook::open(&server, &id, "js")?);
    python.run("import os\nx = 5\npid = os.getpid()")?;
    js.run("let x = 7")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), Some(&json!({})))?.ok()?;
    ensure!(python.status()? == "idle");
    ensure!(server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"] == "paused");
    ensure!(python.value("x, pid == os.getpid()")? == "(5, True)");
    ensure!(js.value("x")? == "7");
    // Code under way is frozen and goes on, too.
    let running = python.begin(
        &server,
        &id,
        "open('/tmp/begun', 'w').close()\nwhile not os.path.exists('/tmp/go'): pass\n'went on'",
    )?;
    server.call("POST", &format!("/v2/box/{id}/pause"), Some(&json!({})))?.ok()?;
    server.sh(&id, "touch /tmp/go")?;
    ensure!(finish(running)?.ok()?["results"][0]["text/plain"] == "'went on'");
    let running = python.begin(&server, &id, "open('/tmp/begun', 'w').close()\nwhile True: pass")?;
    server.delete(&id)?;
    let answer = finish(running)?;
    ensure!(answer.status == 410 && answer.text().contains("its box was deleted"), "{}", answer.text());
    Ok(())
}

#[test]
fn a_stopped_box_has_no_contexts_and_says_why() -> Result<()> {
    let settings = Settings::from([("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s".to_owned())]);
    let server = Server::with(settings)?;
    let id = server.create()?;
    let it = Notebook::open(&server, &id, "python")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), Some(&json!({})))?.ok()?;
    let list = format!("/v2/box/{id}/contexts");
    until("the list to be empty", PATIENCE, || {
        Ok((server.call("GET", &list, None)?.ok()?["contexts"] == json!([])).then_some(()))
    })?;
    let answer = it.post("code", &json!({ "code": "1" }))?;
    ensure!(answer.status == 410 && answer.text().contains("paused for longer"), "{}", answer.text());
    ensure!(server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"] == "paused", "it was not woken");
    ensure!(Notebook::open(&server, &id, "python")?.value("1 + 1")? == "2");
    Ok(())
}

#[test]
fn contexts_end_with_their_server_however_it_ends() -> Result<()> {
    let mut server = Server::start()?;
    let id = server.create()?;
    for killed in [false, true] {
        let it = Notebook::open(&server, &id, "python")?;
        it.run("import subprocess; subprocess.Popen(['sleep', '4724']);")?;
        if killed {
            server.kill()?;
        } else {
            server.stop()?;
        }
        server.launch()?;
        until("nothing of it to be left", PATIENCE, || {
            let left = interpreters(&server, &id)? + server.exec(&id, "pgrep -f 'sleep 472[4]'")?.out.lines().count();
            Ok((left == 0).then_some(()))
        })?;
        ensure!(server.call("GET", &format!("/v2/box/{id}/contexts"), None)?.ok()? == json!({ "contexts": [] }));
        let answer = server.call("GET", &it.path, None)?;
        ensure!(answer.status == 404 && answer.text().contains("contexts end with the server"), "{}", answer.text());
    }
    Ok(())
}

#[test]
fn plots_and_tables_of_real_libraries_are_shown() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "pip install --quiet matplotlib pandas")?;
    let it = Notebook::open(&server, &id, "python")?;
    let png = |result: &Value| result["image/png"].as_str().is_some_and(|text| text.starts_with("iVBORw0KGgo"));
    let plot = it.run("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);")?;
    ensure!(plot["error"].is_null() && plot["results"].as_array().is_some_and(|shown| shown.len() == 1), "{plot}");
    ensure!(png(&plot["results"][0]) && plot["stderr"] == "", "{plot}");
    let shown = it.run("plt.plot([3, 1])\nplt.show()\nprint('after')")?;
    ensure!(png(&shown["results"][0]) && shown["results"].as_array().map(Vec::len) == Some(1) && shown["stderr"] == "");
    let figure = it.run("figure, axes = plt.subplots()\naxes.bar([1], [2])\nfigure")?;
    ensure!(png(&figure["results"][0]) && figure["results"].as_array().map(Vec::len) == Some(1));
    ensure!(figure["results"][0]["is_main"] == true);
    ensure!(it.run("1")?["results"].as_array().map(Vec::len) == Some(1), "a figure is shown once");
    let table = it.run("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})")?["results"][0].clone();
    ensure!(table["text/html"].as_str().is_some_and(|html| html.contains("<table") && html.contains("<td>y</td>")));
    ensure!(table["text/plain"].as_str().is_some_and(|text| text.contains("a  b")), "{table}");
    Ok(())
}

/// What the program says as a client of this server.
fn program(server: &Server, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(server.programs().join("boxyard"));
    command.args(arguments).env("BOXYARD_API_KEY", &server.client().key).env("BOXYARD_URL", server.client().base_url());
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn the_program_runs_code_in_contexts() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let context = program(&server, &["context", "create", &id, "js"])?;
    ensure!(program(&server, &["context", "run", &id, &context, "const x = 6; console.log('hello')"])? == "hello");
    ensure!(program(&server, &["context", "run", &id, &context, "x * 7"])? == "42");
    let whole = program(&server, &["context", "run", &id, &context, "--json", "({ x })"])?;
    ensure!(serde_json::from_str::<Value>(&whole)?["results"][0]["application/json"] == json!({ "x": 6 }), "{whole}");
    let error = program(&server, &["context", "run", &id, &context, "null.x"]);
    ensure!(error.is_err_and(|error| error.to_string().contains("TypeError")), "an error of the code is a failure");
    ensure!(program(&server, &["context", "list", &id])?.contains(&format!("{context}  js        idle")));
    program(&server, &["context", "delete", &id, &context])?;
    ensure!(!program(&server, &["context", "list", &id])?.contains(&context));
    Ok(())
}
