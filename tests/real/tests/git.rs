//! Git in boxes, against a host of repositories outside: what works, and where tokens do not get.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Answer, Forge, Server, forge, until};
use serde_json::{Value, json};

/// How long what nothing announces may take.
const SETTLE: Duration = Duration::from_secs(60);
/// A hook or a program that never ends by itself; its arguments tell it from all others.
const SLEEP: &str = "sleep 4741";

fn call(server: &Server, id: &str, what: &str, body: &Value) -> Result<Answer> {
    server.call("POST", &format!("/v2/box/{id}/git/{what}"), Some(body))
}

fn ok(server: &Server, id: &str, what: &str, body: &Value) -> Result<Value> {
    call(server, id, what, body)?.ok().with_context(|| format!("git/{what} {body}"))
}

/// What a call is refused with.
fn refused(server: &Server, id: &str, what: &str, body: &Value) -> Result<(u16, String)> {
    let answer = call(server, id, what, body)?;
    ensure!(answer.status >= 400, "git/{what} {body} was not refused: {}", answer.text());
    Ok((answer.status, answer.json()?["error"].as_str().unwrap_or_default().to_owned()))
}

fn look(server: &Server, id: &str, what: &str, folder: &str) -> Result<String> {
    let said = server.call("GET", &format!("/v2/box/{id}/git/{what}?folder={folder}"), None)?.ok()?;
    Ok(said[what].as_str().context("no text")?.to_owned())
}

#[test]
fn work_goes_out_of_a_private_repository_and_back() -> Result<()> {
    let forge = Forge::new("bygita", ["198.51.100.130", "203.0.113.130"])?;
    let bare = forge.repository("private", &["one", "two", "three"])?;
    forge::git(&bare, &["branch", "old", "trunk~1"])?;
    let server = Server::with(forge.settings())?;
    let id = server.create()?;
    let token = Forge::TOKEN;

    let body =
        json!({"repo": forge.url("private"), "branch": "old", "depth": 1, "folder": "deep/old", "github_token": token});
    ensure!(ok(&server, &id, "clone", &body)?["folder"] == "/workspace/home/deep/old");
    ensure!(
        server.sh(&id, "cd deep/old && git rev-list --count HEAD && git branch --show-current && ls")?
            == "1\nold\none\ntwo"
    );
    let plain = json!({"repo": forge.url("private"), "github_token": token});
    ensure!(ok(&server, &id, "clone", &plain)?["folder"] == "/workspace/home/private");
    // The folder that a client is in, as it sends it.
    let within = json!({"repo": forge.url("private"), "github_token": token, "folder": "/workspace/home/deep"});
    ensure!(ok(&server, &id, "clone", &within)?["folder"] == "/workspace/home/deep/private");

    ensure!(look(&server, &id, "status", "private")?.is_empty() && look(&server, &id, "diff", "private")?.is_empty());
    server.sh(&id, "cd private && echo more >> one && echo staged > four && git add four && echo loose > five")?;
    ensure!(look(&server, &id, "status", "private")? == "A  four\n M one\n?? five\n");
    let diff = look(&server, &id, "diff", "private")?;
    ensure!(diff.contains("\n+more\n") && diff.contains("\n+staged\n") && !diff.contains("loose"), "{diff}");
    let author = json!({"message": "What was staged\n\nAnd why.", "author_name": "Ada", "author_email": "ada@example.com", "folder": "private"});
    let made = ok(&server, &id, "commit", &author)?;
    ensure!(made["message"] == "What was staged\n\nAnd why.", "{made}");
    ensure!(
        server.sh(&id, "cd private && git log -1 --format='%H %an %ae %cn' && git status --porcelain")?
            == format!("{} Ada ada@example.com Upstash Box\n M one\n?? five", made["sha"].as_str().unwrap_or_default())
    );
    ok(&server, &id, "commit", &json!({"message": "The rest", "folder": "private"}))?;
    ensure!(
        server.sh(&id, "cd private && git log -1 --format=%an --name-only && git status --porcelain")?
            == "Upstash Box\n\nfive\none"
    );
    let (status, text) = refused(&server, &id, "commit", &json!({"message": "Nothing", "folder": "private"}))?;
    ensure!(status == 409 && text.contains("nothing to commit"), "{status} {text}");

    let (status, text) = refused(&server, &id, "push", &json!({"folder": "private"}))?;
    ensure!(status == 403 && text.contains("could not read Username"), "{status} {text}");
    ok(&server, &id, "push", &json!({"folder": "private", "github_token": token}))?;
    ensure!(forge::git(&bare, &["log", "-1", "--format=%s", "trunk"])? == "The rest");

    ok(&server, &id, "checkout", &json!({"branch": "feature/new", "folder": "private"}))?;
    server.sh(&id, "cd private && echo new > new")?;
    ok(&server, &id, "commit", &json!({"message": "On a branch", "folder": "private"}))?;
    ok(&server, &id, "push", &json!({"folder": "private", "github_token": token}))?;
    ensure!(server.sh(&id, "cd private && git rev-parse --abbrev-ref '@{upstream}'")? == "origin/feature/new");
    ensure!(forge::git(&bare, &["log", "-1", "--format=%s", "feature/new"])? == "On a branch");
    ok(&server, &id, "checkout", &json!({"branch": "trunk", "folder": "private"}))?;
    ensure!(server.sh(&id, "cd private && ls new 2>&1 | wc -l; git branch --show-current")? == "1\ntrunk");
    ok(&server, &id, "push", &json!({"branch": "elsewhere", "folder": "private", "github_token": token}))?;
    ensure!(forge::git(&bare, &["log", "-1", "--format=%s", "elsewhere"])? == "The rest");
    // Somebody else was faster.
    forge::git(&bare, &["update-ref", "refs/heads/trunk", "feature/new"])?;
    server.sh(&id, "cd private && echo late > late")?;
    ok(&server, &id, "commit", &json!({"message": "Too late", "folder": "private"}))?;
    let (status, text) = refused(&server, &id, "push", &json!({"folder": "private", "github_token": token}))?;
    ensure!(status == 409 && text.contains("[rejected]"), "{status} {text}");

    let missing = json!({"repo": forge.url("missing")});
    ensure!(refused(&server, &id, "clone", &missing)?.0 == 404);
    let gone = json!({"repo": forge.url("private"), "branch": "gone", "github_token": token});
    let (status, text) = refused(
        &server,
        &id,
        "clone",
        &json!({"repo": forge.url("private"), "branch": "gone", "folder": "x", "github_token": token}),
    )?;
    ensure!(status == 404 && text.contains("gone"), "{status} {text}");
    ensure!(refused(&server, &id, "clone", &gone)?.0 == 409, "the folder is taken");
    let said = ok(&server, &id, "exec", &json!({"args": ["rev-parse", "--verify", "no-such"], "folder": "private"}))?;
    ensure!(said["exit_code"] == 128 && said["output"].as_str().is_some_and(|text| text.contains("fatal:")), "{said}");
    let said = ok(&server, &id, "exec", &json!({"args": ["log", "-1", "--format=%s"], "folder": "private"}))?;
    ensure!(said == json!({"output": "Too late\n", "exit_code": 0}), "{said}");
    let runs = server.call("GET", &format!("/v2/box/{id}/runs"), None)?.ok()?;
    ensure!(!runs.to_string().contains("\"git "), "a call of git is a run: {runs}");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_token_in_the_box_or_on_the_host() -> Result<()> {
    let forge = Forge::new("bygitb", ["198.51.100.134", "203.0.113.134"])?;
    forge.repository("private", &["one"])?;
    let mut server = Server::with(forge.settings())?;
    server.set("BOXYARD_LOG_LEVEL", "debug");
    server.stop()?;
    server.launch()?;
    let id = server.create()?;
    let token = Forge::TOKEN;
    ok(&server, &id, "clone", &json!({"repo": forge.url("private"), "github_token": token}))?;
    ensure!(forge.asked()?.iter().any(|asked| asked["login"] == token), "the token never arrived");
    // The next commands are without it, whoever runs them.
    ensure!(refused(&server, &id, "push", &json!({"folder": "private"}))?.0 == 403);
    let fetch = ok(&server, &id, "exec", &json!({"args": ["fetch"], "folder": "private"}))?;
    ensure!(fetch["exit_code"] == 128, "{fetch}");
    ensure!(server.exec(&id, "cd private && GIT_TERMINAL_PROMPT=0 git fetch")?.code != 0);
    ensure!(!server.sh(&id, "env; cd private && git config --list --show-origin")?.contains(token));
    // Not in plain words: these are recorded, too.
    let search = |text: &str| {
        let text: String = text.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        let places = "/workspace /home /tmp /var /root /etc /dev/shm /proc/[0-9]*/environ /proc/[0-9]*/cmdline";
        server.exec(&id, &format!("printf '{text}' | sudo grep -r -a -l -F -f - {places} 2> /dev/null"))
    };
    // The search finds what is there.
    server.sh(&id, "printf '%s%s' see me > /home/boxuser/seen")?;
    ensure!(search("seeme")?.out.contains("/home/boxuser/seen"));
    let found = search(&token[..12])?.out;
    ensure!(found.is_empty(), "it is in {found}");

    let wrong = format!("{token}-but-wrong");
    let refusals = [
        refused(&server, &id, "clone", &json!({"repo": forge.url("private2"), "github_token": wrong}))?,
        refused(&server, &id, "create-issue", &json!({"title": "x", "folder": "private", "github_token": wrong}))?,
    ];
    for (status, text) in refusals {
        ensure!(status == 403 && !text.contains(token), "{status} {text}");
    }
    let logs = server.logs(&id)?;
    ensure!(!logs.concat().contains(token), "{logs:?}");
    server.stop()?;
    let data = server.lane().data();
    let files = ["boxyard.db", "boxyard.db-wal", "spool", "boxes"].map(|name| data.join(name));
    let mut grep = Command::new("grep");
    grep.args(["-r", "-a", "-l", "-F", &token[..12]])
        .args(files.iter().filter(|path| path.exists()))
        .arg(server.lane().log());
    let said = grep.output()?;
    ensure!(said.status.code() == Some(1), "it is in {}", String::from_utf8_lossy(&said.stdout));
    server.launch()
}

#[test]
fn a_host_that_a_redirect_or_a_submodule_leads_to_does_not_get_the_token() -> Result<()> {
    let forge = Forge::new("bygitc", ["198.51.100.138", "203.0.113.138"])?;
    forge.repository("private", &["one"])?;
    let server = Server::with(forge.settings())?;
    let id = server.create_with(&json!({"github_token": Forge::TOKEN}))?;
    for token in [json!(Forge::TOKEN), Value::Null, json!("another-token")] {
        for repo in
            [format!("{}/moved/private.git", forge.base_url()), format!("http://{}/git/private.git", forge.elsewhere())]
        {
            let (status, text) = refused(&server, &id, "clone", &json!({"repo": repo, "github_token": token}))?;
            ensure!(status == 403, "{repo}: {status} {text}");
        }
    }
    ok(&server, &id, "clone", &json!({"repo": forge.url("private")}))?;
    let add = format!(
        "cd private && git config -f .gitmodules submodule.x.path x && git config -f .gitmodules submodule.x.url http://{}/x.git \
        && git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),x",
        forge.elsewhere()
    );
    server.sh(&id, &add)?;
    let said = ok(&server, &id, "exec", &json!({"args": ["submodule", "update", "--init"], "folder": "private"}))?;
    ensure!(said["exit_code"] != 0, "{said}");
    // A box can say that GitHub is elsewhere; then elsewhere is not GitHub.
    let instead =
        format!("git config --global url.http://{}/.insteadOf http://{}/", forge.elsewhere(), "198.51.100.138:8080");
    server.sh(&id, &instead)?;
    ensure!(refused(&server, &id, "push", &json!({"folder": "private"}))?.0 == 403);
    let asked = forge.asked()?;
    let elsewhere: Vec<&Value> =
        asked.iter().filter(|asked| forge.elsewhere().starts_with(asked["at"].as_str().unwrap_or("?"))).collect();
    ensure!(elsewhere.len() >= 4, "nobody was led there: {asked:?}");
    ensure!(elsewhere.iter().all(|asked| asked["login"] == ""), "a token went elsewhere: {elsewhere:?}");
    Ok(())
}

#[test]
fn a_box_has_a_token_of_its_own_until_it_is_deleted() -> Result<()> {
    let forge = Forge::new("bygitd", ["198.51.100.142", "203.0.113.142"])?;
    let bare = forge.repository("private", &["one"])?;
    let mut server = Server::with(forge.settings())?;
    let id = server.create_with(
        &json!({"github_token": Forge::TOKEN, "git_user_name": "Ada Lovelace", "git_user_email": "ada@example.com"}),
    )?;
    ok(&server, &id, "clone", &json!({"repo": forge.url("private")}))?;
    server.kill()?;
    server.launch()?;
    server.sh(&id, "cd private && echo two > two")?;
    ok(&server, &id, "commit", &json!({"message": "Two", "folder": "private"}))?;
    ok(&server, &id, "push", &json!({"folder": "private"}))?;
    ensure!(
        forge::git(&bare, &["log", "-1", "--format=%an <%ae> %s", "trunk"])? == "Ada Lovelace <ada@example.com> Two"
    );
    ensure!(!server.call("GET", "/v2/box", None)?.text().contains(Forge::TOKEN));
    // Pull requests and issues are made with it by the server.
    server.sh(&id, "cd private && git remote set-url origin http://198.51.100.142:8080/owner/name.git && mkfifo pipe && head -c 100 /dev/urandom > noise \
        && ln -s /etc/shadow secret && seq 3 > numbers")?;
    let attach = json!(["numbers", "pipe", "noise", "secret", "none", "-"]);
    let made = ok(
        &server,
        &id,
        "create-pr",
        &json!({"title": "Two", "body": "Look:", "attach": attach, "folder": "private"}),
    )?;
    ensure!(
        made["url"] == "http://forge/owner/name/pulls/7" && made["number"] == 7 && made["base"] == "trunk",
        "{made}"
    );
    let warning = made["warning"].as_str().unwrap_or_default();
    for part in [
        "pipe (not a file)",
        "noise (not a text",
        "secret (it may not be read)",
        "none (there is no such file)",
        "- (there is no such file)",
    ] {
        ensure!(warning.contains(part), "{part}: {warning}");
    }
    ensure!(
        ok(&server, &id, "create-issue", &json!({"title": "Broken", "folder": "private"}))?["url"]
            == "http://forge/owner/name/issues/7"
    );
    let asked = forge.asked()?;
    let pull = asked.iter().find(|asked| asked["path"] == "/api/repos/owner/name/pulls").context("nobody asked")?;
    let body: Value = serde_json::from_str(pull["body"].as_str().unwrap_or_default())?;
    let text = "Look:\n\n<details><summary>numbers</summary>\n\n```\n1\n2\n3\n```\n\n</details>\n";
    ensure!(body == json!({"title": "Two", "head": "trunk", "base": "trunk", "body": text}), "{body}");
    // Neither a copy nor another has it.
    let saved = server.call("POST", &format!("/v2/box/{id}/snapshots"), Some(&json!({})))?.ok()?;
    let restored = server
        .call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": saved["id"], "git_user_name": "Grace"})))?
        .ok()?;
    let restored = restored["id"].as_str().context("no id")?;
    ensure!(server.sh(restored, "git config user.name; git config user.email")? == "Grace\nada@example.com");
    let (status, text) = refused(&server, restored, "create-issue", &json!({"title": "x", "folder": "private"}))?;
    ensure!(status == 422 && text.contains("no token"), "{status} {text}");
    server.delete(&id)?;
    let database = std::fs::read(server.lane().data().join("boxyard.db-wal"))?;
    ensure!(!database.is_empty());
    let tokens = Command::new("python3")
        .args(["-c", "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from git_tokens').fetchone()[0])"])
        .arg(server.lane().data().join("boxyard.db"))
        .output()?;
    ensure!(String::from_utf8_lossy(&tokens.stdout).trim() == "0", "{tokens:?}");
    Ok(())
}

#[test]
fn who_commits_is_changed_by_either_path_and_a_paused_box_wakes_for_it() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let put = |path: &str, body: Value| server.call("PUT", &format!("/v2/box/{id}/{path}"), Some(&body))?.ok();
    ensure!(
        put("config/git", json!({"git_user_name": "Ada"}))?
            == json!({"git_user_name": "Ada", "git_user_email": "box@upstash.com"})
    );
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    let both = json!({"git_user_name": "Ada", "git_user_email": "ada@example.com"});
    ensure!(put("git-config", json!({"git_user_email": "ada@example.com", "git_user_name": null}))? == both);
    // What a repository in the workspace says is for that repository.
    server.sh(&id, "git init -q . && git config user.name local && git config --global --add user.name second")?;
    ensure!(put("config/git", json!({"git_user_name": "Ada"}))? == both);
    ensure!(server.sh(&id, "git config --global --get-all user.name")? == "Ada");
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    ensure!(look(&server, &id, "status", "")?.is_empty());
    ensure!(look(&server, &id, "status", "/tmp")?.is_empty() && look(&server, &id, "diff", "/tmp")?.is_empty());
    ensure!(refused(&server, &id, "commit", &json!({"message": "x", "folder": "/tmp"}))?.0 == 400);
    Ok(())
}

#[test]
fn what_a_repository_brings_runs_in_the_box_and_nowhere_else() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let marker = format!("/tmp/boxyard-ran-{}", server.lane().number());
    let script = format!(
        "git init -q evil && cd evil && for way in monitor pager diff alias hook; do printf '#!/bin/sh\\necho '$way' >> {marker}\\n' > /tmp/$way; chmod +x /tmp/$way; done \
         && git config core.fsmonitor /tmp/monitor && git config core.pager /tmp/pager && git config diff.external /tmp/diff \
         && git config alias.status '!/tmp/alias' && git config alias.own '!/tmp/alias' && cp /tmp/hook .git/hooks/pre-commit \
         && echo x > x && git add x && echo y > ./--help && echo z > ./-rf && git add -- --help -rf"
    );
    server.sh(&id, &script)?;
    server.sh(&id, &format!("rm -f {marker}"))?;
    ensure!(look(&server, &id, "status", "evil")? == "A  --help\nA  -rf\nA  x\n");
    ensure!(look(&server, &id, "diff", "evil")?.contains("+++ b/--help"), "before the first commit everything is new");
    ok(&server, &id, "commit", &json!({"message": "--amend", "folder": "evil"}))?;
    ok(&server, &id, "exec", &json!({"args": ["own"], "folder": "evil"}))?;
    // Names that begin with a dash are made behind git's back.
    server.sh(&id, "cd evil && git update-ref refs/heads/--orphan HEAD && git update-ref refs/heads/-x HEAD")?;
    for branch in ["--orphan", "-x", "-", "--"] {
        ensure!(refused(&server, &id, "checkout", &json!({"branch": branch, "folder": "evil"}))?.0 == 400, "{branch}");
        ensure!(refused(&server, &id, "push", &json!({"branch": branch, "folder": "evil"}))?.0 == 400, "{branch}");
    }
    server.sh(&id, "cd evil && git symbolic-ref HEAD refs/heads/--orphan && git remote add -- -x /nowhere; true")?;
    let (status, text) = refused(&server, &id, "push", &json!({"folder": "evil"}))?;
    ensure!(status == 409, "{status} {text}");
    for repo in ["--upload-pack=touch /tmp/x", "-u", "ext::sh -c touch% /tmp/x", "ssh://-oProxyCommand=x/y"] {
        ensure!(refused(&server, &id, "clone", &json!({ "repo": repo }))?.0 == 400, "{repo}");
    }
    let ran = server.sh(&id, &format!("sort -u {marker}"))?;
    ensure!(ran.contains("alias") && ran.contains("hook") && !ran.contains("pager"), "{ran}");
    ensure!(!Path::new(&marker).exists(), "it ran on the host");
    Ok(())
}

#[test]
fn a_diff_of_any_size_is_answered_with_its_beginning() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "git init -q big && cd big && touch lines && git add lines && git commit -q -m first && seq -f '%0100g' 400000 > lines")?;
    let answer = server.call("GET", &format!("/v2/box/{id}/git/diff?folder=big"), None)?.ok()?;
    let diff = answer["diff"].as_str().context("no text")?;
    ensure!(
        answer["truncated"] == true && diff.len() == 16 * 1024 * 1024 && diff.starts_with("diff --git"),
        "{} bytes",
        diff.len()
    );
    until("git to be gone", SETTLE, || Ok((server.exec(&id, "pgrep -x git")?.code == 1).then_some(())))?;
    let said = ok(&server, &id, "exec", &json!({"args": ["diff"], "folder": "big"}))?;
    ensure!(said["truncated"] == true && said["exit_code"] == 0);
    Ok(())
}

#[test]
fn what_hangs_is_ended_with_all_that_it_started() -> Result<()> {
    let forge = Forge::new("bygite", ["198.51.100.146", "203.0.113.146"])?;
    let mut settings = forge.settings();
    settings.insert("BOXYARD_GIT_TIMEOUT", "2s".to_owned());
    let mut server = Server::with(settings)?;
    let id = server.create()?;
    let hook = format!("#!/bin/sh\n(setsid {SLEEP} &)\nexec {SLEEP}\n");
    let begin = "git init -q repo && cd repo && git commit -q --allow-empty -m first && echo x > x";
    server.sh(&id, begin)?;
    server.sh(
        &id,
        &format!("cd repo && printf '%s' '{hook}' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit"),
    )?;
    let sleeps = |server: &Server| Ok::<_, anyhow::Error>(server.exec(&id, &format!("pgrep -f '^{SLEEP}'"))?.code == 0);
    let (status, text) = refused(&server, &id, "commit", &json!({"message": "x", "folder": "repo"}))?;
    ensure!(status == 504 && text.contains("git.timeout"), "{status} {text}");
    ensure!(!sleeps(&server)?, "a hook outlives the deadline");
    let (status, _) = refused(&server, &id, "clone", &json!({"repo": format!("{}/hang/x.git", forge.base_url())}))?;
    ensure!(status == 504);
    ensure!(server.exec(&id, "ls -d x || pgrep git")?.code != 0, "something is left of the clone");

    // The client leaves.
    server.stop()?;
    server.settings().remove("BOXYARD_GIT_TIMEOUT");
    server.launch()?;
    let mut connection = server.client().connect()?;
    connection.send("POST", &format!("/v2/box/{id}/git/commit"), Some(&json!({"message": "x", "folder": "repo"})))?;
    until("the hook to run", SETTLE, || Ok(sleeps(&server)?.then_some(())))?;
    drop(connection);
    until("the hook to be ended", SETTLE, || Ok((!sleeps(&server)?).then_some(())))?;
    // The box is deleted.
    let mut connection = server.client().connect()?;
    connection.send(
        "POST",
        &format!("/v2/box/{id}/git/clone"),
        Some(&json!({"repo": format!("{}/hang/x.git", forge.base_url())})),
    )?;
    until("the clone to run", SETTLE, || Ok((server.exec(&id, "pgrep git")?.code == 0).then_some(())))?;
    server.delete(&id)?;
    Ok(())
}
