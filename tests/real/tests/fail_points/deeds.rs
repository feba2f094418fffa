//! Every deed of a server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::fail::VARIABLE;
use boxyard_real_tests::{Answer, FailPoints, Server, until};
use serde_json::{Value, json};

use crate::yard::{Deed, Yard, made, pause, resume, snapshots};

/// How long what nothing announces may take.
pub const SETTLE: Duration = Duration::from_secs(60);

fn nothing(_: &Server) -> Result<Value> {
    Ok(Value::Null)
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The id of the live box with this name.
pub fn named(server: &Server, name: &str) -> Result<Option<String>> {
    let boxes = server.call("GET", "/v2/box", None)?.ok()?;
    let found = boxes.as_array().context("no list")?.iter().find(|each| each["name"] == name);
    Ok(found.map(|found| text(&found["id"]).to_owned()))
}

/// The box of this name is there if that was acknowledged, and works if it is there; then it is deleted.
fn made_or_not(server: &Server, name: &str, answer: Option<&Answer>, works: &str, says: &str) -> Result<bool> {
    let acknowledged = answer.is_some_and(|answer| answer.status == 200);
    let Some(id) = named(server, name)? else {
        ensure!(!acknowledged, "the box was acknowledged and is lost");
        return Ok(false);
    };
    let said = server.sh(&id, works)?;
    ensure!(said == says, "'{works}' in {id} says '{said}'");
    server.delete(&id)?;
    Ok(true)
}

pub fn call(server: &Server, method: &str, path: &str, body: &Value) -> Result<Answer> {
    server.call(method, path, (!body.is_null()).then_some(body))
}

/// The id of something that was just made.
fn id_of(answer: &Answer) -> Result<String> {
    Ok(answer.ok()?["id"].as_str().context("no id")?.to_owned())
}

/// What is asked for over HTTP.
pub fn all(yard: &mut Yard) -> Result<()> {
    let awake = yard.awake.clone();
    create(yard)?;
    delete(yard)?;
    pausing(yard)?;
    saving(yard, &awake)?;
    making_from(yard)?;
    importing(yard)?;
    records(yard, &awake)?;
    commands(yard, &awake)?;
    if yard.only.is_empty() { keys(yard) } else { Ok(()) }
}

fn create(yard: &mut Yard) -> Result<()> {
    let body = json!({"name": "new", "env_vars": {"A": "given"}, "labels": ["x"], "init_command": "echo x >> started",
        "git_user_name": "Ada", "github_token": "ghp_of_the_new"});
    // A server that dies between its start and the note of it runs it again.
    let works = "until test -s started; do sleep 0.01; done; echo $A $(git config user.name)";
    yard.walk(&Deed {
        name: "create",
        prepare: &nothing,
        act: &|server, _| call(server, "POST", "/v2/box", &body),
        after: &|server, _, answer| {
            if !made_or_not(server, "new", answer, works, "given Ada")? {
                let again = call(server, "POST", "/v2/box", &body)?;
                made_or_not(server, "new", Some(&again), works, "given Ada")?;
            }
            Ok(())
        },
    })
}

fn delete(yard: &mut Yard) -> Result<()> {
    yard.walk(&Deed {
        name: "delete",
        prepare: &|server| Ok(made(server, "doomed")?.into()),
        act: &|server, id| call(server, "DELETE", &format!("/v2/box/{}", text(id)), &Value::Null),
        after: &|server, id, answer| {
            let is_there = named(server, "doomed")?.is_some();
            if is_there {
                ensure!(answer.is_none(), "a deleted box is back");
                ensure!(server.sh(text(id), "cat file")? == "doomed");
                server.delete(text(id))?;
            }
            let record = server.call("GET", &format!("/v2/box/{}", text(id)), None)?.ok()?;
            ensure!(record["status"] == "deleted", "it is {}", record["status"]);
            Ok(())
        },
    })
}

/// A box with a process in the background and an init command.
pub fn napper(server: &Server) -> Result<Value> {
    if let Some(id) = named(server, "napper")? {
        return Ok(id.into());
    }
    let id = made(server, "napper")?;
    server.sh(&id, "nohup sleep 4732 > /dev/null 2>&1 & echo $! > background")?;
    Ok(id.into())
}

fn pausing(yard: &mut Yard) -> Result<()> {
    let goes_on = |server: &Server, id: &Value| server.sh(text(id), "kill -0 $(cat background) && cat file");
    let status = |server: &Server, id: &Value| -> Result<String> {
        Ok(text(&server.call("GET", &format!("/v2/box/{}", text(id)), None)?.ok()?["status"]).to_owned())
    };
    yard.walk(&Deed {
        name: "pause",
        prepare: &napper,
        act: &|server, id| call(server, "POST", &format!("/v2/box/{}/pause", text(id)), &Value::Null),
        after: &|server, id, answer| {
            if answer.is_some() {
                ensure!(status(server, id)? == "paused", "a box was paused and is {}", status(server, id)?);
            }
            pause(server, text(id))?;
            ensure!(goes_on(server, id)? == "napper");
            Ok(())
        },
    })?;
    yard.walk(&Deed {
        name: "resume",
        prepare: &|server| {
            let id = napper(server)?;
            pause(server, text(&id)).map(|()| id)
        },
        act: &|server, id| call(server, "POST", &format!("/v2/box/{}/resume", text(id)), &Value::Null),
        after: &|server, id, answer| {
            if answer.is_some() {
                ensure!(status(server, id)? == "idle", "a box was resumed and is {}", status(server, id)?);
            }
            resume(server, text(id))?;
            ensure!(goes_on(server, id)? == "napper");
            Ok(())
        },
    })?;
    let id = text(&napper(&yard.server)?).to_owned();
    yard.server.delete(&id)
}

fn saving(yard: &mut Yard, awake: &str) -> Result<()> {
    let path = format!("/v2/box/{awake}/snapshots");
    let kept = yard.snapshot.clone();
    let others = |server: &Server| -> Result<Vec<(String, String)>> {
        Ok(snapshots(server)?.into_iter().filter(|(id, _)| *id != kept).collect())
    };
    let gone = |server: &Server, id: &str| -> Result<()> {
        call(server, "DELETE", &format!("{path}/{id}"), &Value::Null)?.ok().map(drop)
    };
    yard.walk(&Deed {
        name: "snapshot",
        prepare: &nothing,
        act: &|server, _| call(server, "POST", &path, &json!({"name": "new"})),
        after: &|server, _, answer| {
            let found = others(server)?;
            if let Some(answer) = answer {
                ensure!(found == [(id_of(answer)?, "ready".to_owned())], "acknowledged, there is {found:?}");
            }
            ensure!(found.len() <= 1, "{found:?}");
            let ready: Vec<_> =
                found.iter().filter(|(_, status)| status == "ready").map(|(id, _)| id.clone()).collect();
            let whole = match ready.first() {
                Some(id) => id.clone(),
                None => id_of(&call(server, "POST", &path, &json!({"name": "again"}))?)?,
            };
            let copy = id_of(&call(server, "POST", "/v2/box/from-snapshot", &json!({ "snapshot_id": whole }))?)?;
            ensure!(server.sh(&copy, "cat file")? == "awake");
            server.delete(&copy)?;
            others(server)?.iter().try_for_each(|(id, _)| gone(server, id))
        },
    })?;
    yard.walk(&Deed {
        name: "delete a snapshot",
        prepare: &|server| Ok(id_of(&call(server, "POST", &path, &json!({"name": "new"}))?)?.into()),
        act: &|server, id| call(server, "DELETE", &format!("{path}/{}", text(id)), &Value::Null),
        after: &|server, id, answer| {
            let found = others(server)?;
            ensure!(answer.is_none() || found.is_empty(), "a deleted snapshot is back: {found:?}");
            if !found.is_empty() {
                ensure!(found == [(text(id).to_owned(), "ready".to_owned())], "{found:?}");
                gone(server, text(id))?;
            }
            Ok(())
        },
    })?;
    // Deleted while it is being made.
    yard.walk(&Deed {
        name: "delete the box that is being saved",
        prepare: &|server| Ok(made(server, "doomed")?.into()),
        act: &|server, id| {
            let saving = server.client().clone();
            let path = format!("/v2/box/{}", text(id));
            let order = (format!("{path}/snapshots"), json!({"name": "new"}));
            let saved = std::thread::spawn(move || saving.call("POST", &order.0, Some(&order.1)));
            let deleted = call(server, "DELETE", &path, &Value::Null);
            let _saved = saved.join();
            deleted
        },
        after: &|server, id, answer| {
            let is_there = named(server, "doomed")?.is_some();
            ensure!(!is_there || answer.is_none(), "a deleted box is back");
            if is_there {
                ensure!(server.sh(text(id), "cat file")? == "doomed");
                server.delete(text(id))?;
            }
            for (snapshot, status) in others(server)? {
                ensure!(status == "ready" || status == "error", "a snapshot is {status}");
                gone_from(server, text(id), &snapshot)?;
            }
            Ok(())
        },
    })
}

fn gone_from(server: &Server, id: &str, snapshot: &str) -> Result<()> {
    call(server, "DELETE", &format!("/v2/box/{id}/snapshots/{snapshot}"), &Value::Null)?.ok().map(drop)
}

fn making_from(yard: &mut Yard) -> Result<()> {
    let body = json!({"snapshot_id": yard.snapshot, "name": "copy", "env_vars": {"A": "given"}});
    let (works, says) = ("cat file; echo $A", "awake\ngiven");
    yard.walk(&Deed {
        name: "make from a snapshot",
        prepare: &nothing,
        act: &|server, _| call(server, "POST", "/v2/box/from-snapshot", &body),
        after: &|server, _, answer| {
            if !made_or_not(server, "copy", answer, works, says)? {
                let again = call(server, "POST", "/v2/box/from-snapshot", &body)?;
                made_or_not(server, "copy", Some(&again), works, says)?;
            }
            Ok(())
        },
    })?;
    let path = format!("/v2/box/{}/fork", yard.awake);
    let body = json!({"name": "copy", "env_vars": {"A": "given"}});
    yard.walk(&Deed {
        name: "fork",
        prepare: &nothing,
        act: &|server, _| call(server, "POST", &path, &body),
        after: &|server, _, answer| {
            if !made_or_not(server, "copy", answer, works, says)? {
                let again = call(server, "POST", &path, &body)?;
                made_or_not(server, "copy", Some(&again), works, says)?;
            }
            Ok(())
        },
    })
}

/// The snapshots of this name.
fn imported(server: &Server) -> Result<Vec<String>> {
    let list = server.call("GET", "/v2/box/snapshots", None)?.ok()?;
    let rows = list["snapshots"].as_array().context("no list of snapshots")?;
    Ok(rows.iter().filter(|row| row["name"] == "imported").map(|row| text(&row["id"]).to_owned()).collect())
}

/// Calls the program `boxyard` as a client of the server.
fn boxyard(server: &Server, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(server.programs().join("boxyard"));
    command.args(arguments).arg("--url").arg(server.client().base_url());
    let output = command.env("BOXYARD_API_KEY", &server.client().key).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn importing(yard: &mut Yard) -> Result<()> {
    let archive = yard.server.lane().folder().join("kept.tar");
    let archive = archive.to_str().context("a path that is no text")?.to_owned();
    boxyard(&yard.server, &["snapshot", "export", &yard.snapshot, "--without-image", "--output", &archive])?;
    yard.walk(&Deed {
        name: "import a snapshot",
        prepare: &nothing,
        act: &|server, _| {
            boxyard(server, &["snapshot", "import", &archive, "--name", "imported"])?;
            server.call("GET", "/v2/box/snapshots", None)
        },
        after: &|server, _, answer| {
            // Told or not, one that is listed is whole.
            let mut found = imported(server)?;
            ensure!(!found.is_empty() || answer.is_none(), "the import was acknowledged and is lost");
            if found.is_empty() {
                boxyard(server, &["snapshot", "import", &archive, "--name", "imported"])?;
                found = imported(server)?;
            }
            for id in found {
                let body = json!({"snapshot_id": id, "name": "copy"});
                let answer = call(server, "POST", "/v2/box/from-snapshot", &body)?;
                made_or_not(server, "copy", Some(&answer), "cat file", "awake")?;
                call(server, "DELETE", "/v2/box/snapshots", &json!({"ids": [id]}))?.ok()?;
            }
            Ok(())
        },
    })
}

/// One that changes a record: what was acknowledged is there, and doing it again is no harm.
struct Change<'a> {
    name: &'static str,
    prepare: Option<(&'a str, String, Value)>,
    act: (&'a str, String, Value),
    look: &'a dyn Fn(&Server) -> Result<Value>,
    expect: Value,
}

fn change(yard: &mut Yard, change: &Change<'_>) -> Result<()> {
    let (method, path, body) = &change.act;
    yard.walk(&Deed {
        name: change.name,
        prepare: &|server| {
            if let Some((method, path, body)) = &change.prepare {
                // It may be so already.
                call(server, method, path, body)?;
            }
            Ok(Value::Null)
        },
        act: &|server, _| call(server, method, path, body),
        after: &|server, _, answer| {
            if answer.is_none() && (change.look)(server)? != change.expect {
                call(server, method, path, body)?.ok()?;
            }
            let found = (change.look)(server)?;
            ensure!(found == change.expect, "there is {found} instead of {}", change.expect);
            Ok(())
        },
    })
}

fn records(yard: &mut Yard, awake: &str) -> Result<()> {
    let of_box = |path: &str| format!("/v2/box/{awake}/{path}");
    let look = |path: String, key: &'static str| {
        move |server: &Server| Ok(server.call("GET", &path, None)?.ok()?[key].clone())
    };
    let labels = look(format!("/v2/box/{awake}"), "labels");
    let add = ("POST", of_box("config/labels"), json!({"label": "new"}));
    let remove = ("DELETE", of_box("config/labels/new"), Value::Null);
    change(yard, &Change { name: "add a label", prepare: None, act: add, look: &labels, expect: json!(["new"]) })?;
    change(yard, &Change { name: "remove a label", prepare: None, act: remove, look: &labels, expect: json!([]) })?;

    let startup = look(of_box("startup"), "init_command");
    let put = ("PUT", of_box("startup"), json!({"init_command": "echo"}));
    change(
        yard,
        &Change { name: "set an init command", prepare: None, act: put, look: &startup, expect: json!("echo") },
    )?;
    let removed = ("DELETE", of_box("startup"), Value::Null);
    change(
        yard,
        &Change { name: "remove an init command", prepare: None, act: removed, look: &startup, expect: json!("") },
    )?;

    // Nobody is shown a token. Who has none hears of that before anything else.
    let issue = of_box("git/create-issue");
    let has_token = |server: &Server| {
        let answer = server.call("POST", &issue, Some(&json!({"title": "x"})))?;
        Ok(Value::Bool(!answer.text().contains("no token")))
    };
    let keep = ("PUT", of_box("config/git"), json!({"github_token": "ghp_of_this_box"}));
    change(yard, &Change { name: "keep a token", prepare: None, act: keep, look: &has_token, expect: json!(true) })?;
    let forget = ("PUT", of_box("config/git"), json!({"github_token": ""}));
    change(
        yard,
        &Change { name: "forget a token", prepare: None, act: forget, look: &has_token, expect: json!(false) },
    )?;

    let env = look("/v2/box/settings/env".into(), "env_vars");
    let all = ("PUT", "/v2/box/settings/env".to_owned(), json!({"env_vars": {"X": "1", "Y": "2"}}));
    let both = json!({"X": "***", "Y": "***"});
    change(yard, &Change { name: "replace the account's env", prepare: None, act: all, look: &env, expect: both })?;
    let one = ("PUT", "/v2/box/settings/env/Z".to_owned(), json!({"value": "3"}));
    let three = json!({"X": "***", "Y": "***", "Z": "***"});
    change(yard, &Change { name: "set a variable", prepare: None, act: one, look: &env, expect: three })?;
    let unset = ("DELETE", "/v2/box/settings/env/X".to_owned(), Value::Null);
    let two = json!({"Y": "***", "Z": "***"});
    change(yard, &Change { name: "remove a variable", prepare: None, act: unset, look: &env, expect: two })?;
    let id = yard.server.create()?;
    ensure!(yard.server.sh(&id, "echo $X$Y$Z")? == "23", "a new box has other variables");
    yard.server.delete(&id)?;
    yard.server.call("PUT", "/v2/box/settings/env", Some(&json!({"env_vars": {}})))?.ok()?;

    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8tVAd3ZQf1oFyTLAqtMPPTJjnmvkSjB8WDXYHmgYTM test";
    secret(yard, "/v2/ssh-keys", "keys", &json!({ "public_key": key }))?;
    secret(yard, &of_box("ssh-tokens"), "tokens", &json!({}))
}

/// What is added to a list and removed by its id.
fn secret(yard: &mut Yard, path: &str, key: &'static str, body: &Value) -> Result<()> {
    let list = |server: &Server| -> Result<Vec<String>> {
        let list = server.call("GET", path, None)?.ok()?;
        let rows = list[key].as_array().with_context(|| format!("no list in {list}"))?;
        Ok(rows.iter().map(|row| text(&row["id"]).to_owned()).collect())
    };
    let clear = |server: &Server| -> Result<()> {
        list(server)?
            .iter()
            .try_for_each(|id| call(server, "DELETE", &format!("{path}/{id}"), &Value::Null)?.ok().map(drop))
    };
    yard.walk(&Deed {
        name: "add an SSH secret",
        prepare: &nothing,
        act: &|server, _| call(server, "POST", path, body),
        after: &|server, _, answer| {
            if let Some(answer) = answer {
                ensure!(list(server)? == [id_of(answer)?], "an acknowledged one is lost");
            }
            clear(server)
        },
    })?;
    yard.walk(&Deed {
        name: "remove an SSH secret",
        prepare: &|server| Ok(id_of(&call(server, "POST", path, body)?)?.into()),
        act: &|server, id| call(server, "DELETE", &format!("{path}/{}", text(id)), &Value::Null),
        after: &|server, _, answer| {
            ensure!(answer.is_none() || list(server)?.is_empty(), "one that was removed is back");
            clear(server)
        },
    })
}

fn commands(yard: &mut Yard, awake: &str) -> Result<()> {
    let path = format!("/v2/box/{awake}/exec");
    let order = json!({"command": ["bash", "-c", "echo x >> ran; echo said"]});
    yard.walk(&Deed {
        name: "run a command",
        prepare: &|server| Ok(server.sh(awake, "rm -f ran")?.into()),
        act: &|server, _| call(server, "POST", &path, &order),
        after: &|server, _, answer| {
            let ran = server.sh(awake, "cat ran 2> /dev/null | wc -l")?;
            ensure!(ran == "1" || (ran == "0" && answer.is_none()), "it ran {ran} times");
            let runs = server.call("GET", &format!("/v2/box/{awake}/runs"), None)?.ok()?;
            let runs = runs["runs"].as_array().context("no list of runs")?;
            ensure!(runs.iter().all(|run| run["status"] != "running"), "a run is left: {runs:?}");
            Ok(())
        },
    })
}

/// The program that makes and revokes keys changes the database beside the server.
fn keys(yard: &mut Yard) -> Result<()> {
    let program = |arguments: &[&str], orders: &str| -> Result<(bool, String)> {
        let mut command = Command::new(yard.server.programs().join("boxyard"));
        command.args(arguments).arg("--data-dir").arg(yard.server.lane().data()).env(VARIABLE, orders);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    };
    let create = ["key", "create", "--account", "another"];
    for orders in ["adding an account", "adding a key"] {
        ensure!(!program(&create, orders)?.0, "{orders}: the program did not die");
        yard.died.insert(orders.to_owned());
    }
    let (made, key) = program(&create, "")?;
    ensure!(made, "no key after what was broken off");
    ensure!(yard.server.client().with_key(&key).call("GET", "/v2/box", None)?.ok()? == json!([]));
    let (_, list) = program(&["key", "list"], "")?;
    let others: Vec<&str> = list.lines().filter(|line| line.contains("another")).collect();
    ensure!(others.len() == 2, "one was stored and not told, one was told: {list}");
    for line in others {
        let id = line.split_whitespace().next().context("no id")?;
        ensure!(!program(&["key", "revoke", id], "revoking a key")?.0, "the program did not die");
    }
    yard.died.insert("revoking a key".to_owned());
    until("the keys to open nothing", SETTLE, || {
        Ok((yard.server.client().with_key(&key).call("GET", "/v2/box", None)?.status == 401).then_some(()))
    })
}

/// Points that come by at the same time as others are not all met by counting: those that were missed, by their names. Two requests that
/// race do not always end in the same way, either.
pub fn missed(yard: &mut Yard) -> Result<()> {
    const ROUNDS: usize = 5;
    let elsewhere = [
        "open: ",
        "recovery: ",
        "store: ",
        "removing ",
        "forgetting outputs",
        "copy: ",
        "adding a key",
        "adding an account",
        "revoking a key",
    ];
    for _ in 0..ROUNDS {
        let mut missed = FailPoints::all()?;
        missed.retain(|name| !yard.died.contains(name) && !elsewhere.iter().any(|prefix| name.starts_with(prefix)));
        if missed.is_empty() {
            break;
        }
        println!("once more: {missed:?}");
        yard.server.kill()?;
        yard.server.set("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "1h");
        yard.server.launch()?;
        yard.only = missed;
        all(yard)?;
    }
    yard.only.clear();
    Ok(())
}

/// Where disks are copied file by file.
pub fn copies(yard: &mut Yard) -> Result<()> {
    let awake = yard.awake.clone();
    yard.only = ["copy: begun", "copy: half"].map(str::to_owned).into();
    saving(yard, &awake)?;
    making_from(yard)
}
