"""Git. Repositories are in the box itself, but for pull requests and issues, which need a forge: see ../../ts/sessions/git.mjs."""

import os

from session import call, equal, make_box, refused, session

FORGE = os.environ.get("BOXYARD_TEST_FORGE")
TOKEN = os.environ.get("BOXYARD_TEST_FORGE_TOKEN", "")


def origin(box) -> str:
    """Makes a bare repository in the box, with three commits on main and one more on the branch other."""
    run = box.exec.command(
        "git init -q --bare -b main up.git && git clone -q up.git seed 2>&1 && cd seed && git checkout -q -b main "
        "&& for n in 1 2 3; do echo $n > $n && git add -A && git commit -q -m $n; done && git push -q origin main "
        "&& git checkout -q -b other && git commit -q --allow-empty -m other && git push -q origin other"
    )
    equal(run.exit_code, 0, run.result)
    return "/workspace/home/up.git"


@session("git: a repository is cloned, changed, committed and pushed")
def _() -> None:
    box = make_box()
    box.git.clone(repo=origin(box))
    box.cd("up")
    equal((box.git.status(), box.git.diff()), ("", ""))
    box.exec.command("echo changed >> 1 && echo new > NEWFILE.txt")
    assert "?? NEWFILE.txt" in box.git.status()
    assert "\n+changed\n" in box.git.diff()
    box.git.checkout(branch="feature/it")
    commit = box.git.commit(message="A change", author_name="Ada", author_email="ada@example.com")
    equal((len(commit.sha), commit.message), (40, "A change"))
    box.git.push()
    equal(box.exec.command("git -C ../up.git log -1 --format='%an %s' feature/it").result, "Ada A change\n")
    equal(box.exec.command("git rev-parse --abbrev-ref '@{upstream}'").result, "origin/feature/it\n")


@session("git: a clone has the branch, the depth and the folder that were asked for")
def _() -> None:
    box = make_box()
    repo = "file://" + origin(box)
    box.git.clone(repo=repo, branch="other", depth=1, folder="deep/er")
    equal(box.exec.command("cd deep/er && git branch --show-current && git rev-list --count HEAD").result, "other\n1\n")
    error = refused(lambda: box.git.clone(repo=repo, branch="no-such", folder="x"))
    equal(error.status_code, 404)
    assert "no-such" in str(error), error
    error = refused(lambda: box.git.clone(repo="/workspace/home/none.git"))
    equal(error.status_code, 404)
    equal(refused(lambda: box.git.clone(repo="--upload-pack=x")).status_code, 400)


@session("git: raw commands have git's own output and exit code")
def _() -> None:
    box = make_box()
    said = box.git.exec(args=["rev-parse", "--verify", "no-such"])
    equal(said.exit_code, 128)
    assert "fatal: not a git repository" in said.output, said.output
    box.exec.command("git init -q repo")
    box.cd("repo")
    assert box.git.exec(args=["rev-parse", "--verify", "no-such"]).exit_code != 0
    equal(box.git.exec(args=["rev-parse", "--is-inside-work-tree"]).output, "true\n")


@session("git: nothing to commit is said so")
def _() -> None:
    box = make_box()
    equal((box.git.status(), box.git.diff()), ("", ""))
    equal(refused(lambda: box.git.commit(message="x")).status_code, 400)
    box.git.clone(repo=origin(box))
    box.cd("up")
    error = refused(lambda: box.git.commit(message="x"))
    equal(error.status_code, 409)
    assert "nothing to commit" in str(error), error


@session("git: who commits is set when the box is made and changed later")
def _() -> None:
    box = make_box(git={"user_name": "Ada", "user_email": "ada@example.com"})
    equal(box.exec.command("git config --global --get-regexp '^user'").result, "user.name Ada\nuser.email ada@example.com\n")
    config = box.git.update_config(user_email="grace@example.com")
    equal((config.git_user_name, config.git_user_email), ("Ada", "grace@example.com"))


@session("git: pull requests and issues need a token and are made by the server")
def _() -> None:
    if FORGE is None:
        # Without a forge it goes as far as it goes.
        box = make_box()
        box.git.clone(repo=origin(box))
        box.cd("up")
        assert "no token" in str(refused(lambda: box.git.create_issue(title="x")))
        return
    box = make_box(git={"token": TOKEN})
    box.git.clone(repo=f"{FORGE}/git/private-py.git")
    box.cd("private-py")
    box.git.checkout(branch="feature")
    box.exec.command("seq 3 > numbers && head -c 100 /dev/urandom > noise")
    box.git.commit(message="More")
    box.git.push()
    box.exec.command(f"git remote set-url origin {FORGE}/owner/name.git")
    pull = box.git.create_pr(title="More", body="Of it.", base="next", attach=["numbers"])
    equal((pull.number, pull.title, pull.base, pull.warning), (7, "More", "next", None))
    issue = box.git.create_issue(title="Broken", attach=["noise", "none"])
    equal((issue.number, issue.title), (7, "Broken"))
    assert issue.warning and "noise" in issue.warning and "none" in issue.warning, issue.warning
    assert TOKEN not in str(call("GET", f"/v2/box/{box.id}")[1])
