//! Files over SSH: everything that people copy, mount and synchronise with.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, Settings, Ssh, finish};

/// Names that trip over a shell's, a protocol's or a programmer's assumptions.
const ODD: &[&str] = &[
    "with space",
    "quote\"and'quote",
    "$(reboot)",
    "-rf",
    "*",
    "back\\slash",
    "grüße-日本-🦀",
    "~",
    "#comment#",
    ".hidden",
    "a;b|c&d",
    "trailing ",
];

/// Makes a tree with odd names, an empty folder, an empty file, a large file, modes and a link.
fn tree(below: &Path) -> Result<PathBuf> {
    let top = below.join("tree");
    fs::create_dir_all(top.join("sub folder/deeper"))?;
    fs::create_dir(top.join("empty folder"))?;
    for (number, name) in ODD.iter().enumerate() {
        fs::write(top.join(name), format!("{number}: {name}\n"))?;
        fs::write(top.join("sub folder").join(name), "below\n")?;
    }
    fs::write(top.join("empty file"), "")?;
    let random = Command::new("head").args(["-c", "5000001", "/dev/urandom"]).stdout(Stdio::piped()).output()?;
    fs::write(top.join("sub folder/deeper/large"), random.stdout)?;
    fs::write(top.join("program"), "#!/bin/sh\necho works\n")?;
    Command::new("chmod").arg("755").arg(top.join("program")).status()?;
    Ok(top)
}

/// Fails when two trees have different files.
fn same(one: &Path, other: &Path) -> Result<()> {
    let said = finish(
        Command::new("diff").args(["--recursive", "--no-dereference"]).args([one, other]).stdout(Stdio::piped()),
    )?;
    ensure!(said.code == Some(0), "they differ: {}", said.text());
    Ok(())
}

/// Runs a batch of sftp commands, which stops at the first that fails.
fn sftp(ssh: &Ssh, batch: &str) -> Result<String> {
    let file = ssh.door().folder().join("batch");
    fs::write(&file, batch)?;
    let mut command = ssh.command("sftp")?;
    // A batch is for those who need no password; `-oBatchMode=no` behind it says that we do.
    command.args(["-oBatchMode=no", "-b"]).arg(&file).arg("box");
    let done = finish(&mut command)?.ok().with_context(|| format!("sftp: {batch}"))?;
    Ok(done.text())
}

#[test]
fn sftp_does_what_its_manual_says() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let folder = ssh.door().folder().to_owned();
    fs::write(folder.join("letter"), "Dear box,\n")?;
    let random = Command::new("head").args(["-c", "20000003", "/dev/urandom"]).stdout(Stdio::piped()).output()?;
    fs::write(folder.join("large"), random.stdout)?;
    ensure!(sftp(&ssh, "pwd\n")?.contains("/workspace/home"));
    sftp(
        &ssh,
        "put letter\nmkdir below\nput large below/large\nrename letter below/renamed\nln -s renamed below/link\n",
    )?;
    ensure!(server.sh(&id, "cat below/link; readlink below/link")? == "Dear box,\nrenamed");
    sftp(&ssh, "get below/large back\nget below/link followed\n")?;
    ensure!(fs::read(folder.join("large"))? == fs::read(folder.join("back"))?, "a file came back changed");
    ensure!(fs::read_to_string(folder.join("followed"))? == "Dear box,\n");
    let listed = sftp(&ssh, "ls -la below\n")?;
    for part in ["renamed", "link", "20000003", "boxuser"] {
        ensure!(listed.contains(part), "no '{part}' in {listed}");
    }
    sftp(&ssh, "chmod 600 below/renamed\nput -p letter kept\nls -1 be*\n")?;
    ensure!(server.sh(&id, "stat -c %a below/renamed")? == "600");
    ensure!(sftp(&ssh, "df -h\n")?.contains('%'), "df says nothing");
    // What was begun is gone on with.
    server.sh(&id, "truncate -s 10000000 below/large; dd if=/dev/null of=x 2> /dev/null")?;
    sftp(&ssh, "reput large below/large\n")?;
    let mut sum = Command::new("sha256sum");
    let here = finish(sum.stdin(File::open(folder.join("large"))?).stdout(Stdio::piped()))?.text();
    ensure!(server.sh(&id, "sha256sum < below/large")? == here, "a resumed upload arrived changed");
    sftp(&ssh, "rm below/link\nrm below/renamed\nrm below/large\nrmdir below\n")?;
    ensure!(server.exec(&id, "test -e below")?.code == 1);
    // Failures are failures, with the reason.
    for (batch, reason) in [
        ("get never\n", "not found"),
        ("put letter /root/letter\n", "ermission denied"),
        ("rmdir /workspace\n", "ailure"),
    ] {
        let said = sftp(&ssh, batch).map_or_else(|error| format!("{error:#}"), |_| "success".into());
        ensure!(said.contains(reason) || said.contains("ermission denied"), "`{batch}` was answered with {said}");
    }
    ensure!(server.exec(&id, "sudo test -e /root/letter")?.code == 1, "boxuser wrote into root's folder");
    Ok(())
}

#[test]
fn scp_copies_files_and_trees() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let folder = ssh.door().folder().to_owned();
    let tree = tree(&folder)?;
    // By SFTP, as scp does today, and by the old way, which runs scp in the box.
    for (way, flags) in [("new", &["-p"] as &[&str]), ("old", &["-p", "-O"])] {
        let copy = |from: &str, to: &str| finish(ssh.command("scp")?.args(flags).args(["-r", from, to]))?.ok();
        copy("tree", &format!("box:{way}")).with_context(|| format!("scp -r the {way} way"))?;
        ensure!(server.sh(&id, &format!("./{way}/program"))? == "works", "the mode of a program was lost");
        let back = folder.join(way);
        copy(&format!("box:{way}"), &back.to_string_lossy())?;
        same(&tree, &back).with_context(|| format!("to and fro the {way} way"))?;
        finish(ssh.command("scp")?.args(flags).args(["tree/program", "box:/tmp/"]))?.ok()?;
        ensure!(server.sh(&id, "cat /tmp/program; rm /tmp/program")?.contains("works"));
        let refused = finish(ssh.command("scp")?.args(flags).args(["tree/program", "box:/root/"]))?;
        ensure!(refused.code != Some(0) && refused.err.contains("ermission denied"), "{refused:?}");
    }
    Ok(())
}

#[test]
fn rsync_sends_what_changed_and_nothing_else() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let folder = ssh.door().folder().to_owned();
    let tree = tree(&folder)?;
    let rsync = |from: &str, to: &str| -> Result<String> {
        let mut command = ssh.program("rsync");
        command.args(["-a", "--delete", "--itemize-changes", "-e", &ssh.shell()?, from, to]);
        Ok(finish(&mut command)?.ok().with_context(|| format!("rsync {from} {to}"))?.text())
    };
    ensure!(rsync("tree/", "box:copy/")?.lines().count() > 2 * ODD.len());
    ensure!(rsync("tree/", "box:copy/")?.is_empty(), "the second time something was sent");
    fs::write(tree.join("with space"), "changed\n")?;
    ensure!(rsync("tree/", "box:copy/")?.lines().count() == 1, "one change is not one file");
    rsync("box:copy/", "back/")?;
    same(&tree, &folder.join("back"))?;
    ensure!(rsync("box:copy/", "back/")?.is_empty(), "the second time something came");
    server.sh(&id, "rm 'copy/*'; echo new > copy/new")?;
    rsync("box:copy/", "back/")?;
    ensure!(!folder.join("back/*").exists() && folder.join("back/new").exists(), "--delete did nothing");
    Ok(())
}

#[test]
fn tar_and_git_go_through() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let folder = ssh.door().folder().to_owned();
    let tree = tree(&folder)?;
    let shell = ssh.shell()?;
    let local = |line: &str| {
        finish(ssh.program("bash").args(["-euo", "pipefail", "-c", line]))?.ok().with_context(|| line.to_owned())
    };
    local(&format!("tar -C tree -cf - . | {shell} box 'mkdir there && tar -C there -xf -'"))?;
    local(&format!("mkdir back; {shell} box 'tar -C there -czf - .' | tar -C back -xzf -"))?;
    same(&tree, &folder.join("back"))?;

    server.sh(&id, "git init --quiet --bare --initial-branch main project.git")?;
    let git = |line: &str| {
        let mut command = ssh.program("bash");
        command.env("GIT_SSH_COMMAND", &shell).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A Test").env(format!("GIT_{who}_EMAIL"), "test@example.com");
        }
        finish(command.args(["-euc", line]))?.ok().with_context(|| line.to_owned())
    };
    git("git init --quiet --initial-branch main project; cd project; cp -r ../tree/. .; git add .; git commit --quiet -m first
         git remote add origin box:project.git; git push --quiet -u origin main")?;
    git(
        "git clone --quiet box:project.git second; cd second; echo more > more; git add more; git commit --quiet -m second; git push --quiet",
    )?;
    git("cd project; git pull --quiet; test -e more; git fsck --no-progress")?;
    ensure!(server.sh(&id, "git -C project.git log --format=%s main")? == "second\nfirst");
    // The way with a URL, and what git says when there is nothing.
    git("git clone --quiet ssh://box/workspace/home/project.git third")?;
    let refused = git("git clone --quiet box:never.git fourth");
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("never.git")), "a clone of nothing succeeded");
    Ok(())
}

#[test]
fn sshfs_mounts_a_box() -> Result<()> {
    if let Err(why) = File::options().read(true).write(true).open("/dev/fuse") {
        println!("NOT TRIED: sshfs needs /dev/fuse, which cannot be opened here: {why}");
        ensure!(
            why.kind() == std::io::ErrorKind::NotFound || why.kind() == std::io::ErrorKind::PermissionDenied,
            "/dev/fuse is there and cannot be opened: {why}"
        );
        return Ok(());
    }
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let mount = ssh.door().folder().join("mount");
    fs::create_dir(&mount)?;
    server.sh(&id, "mkdir shared; echo from the box > shared/theirs")?;
    let mut sshfs = ssh.program("sshfs");
    sshfs.arg("box:/workspace/home/shared").arg(&mount).arg("-F").arg(ssh.config()?);
    finish(&mut sshfs)?.ok().context("sshfs")?;
    let used = || -> Result<()> {
        ensure!(fs::read_to_string(mount.join("theirs"))? == "from the box\n");
        fs::write(mount.join("ours"), "from here\n")?;
        ensure!(server.sh(&id, "cat shared/ours")? == "from here\n".trim_end());
        fs::rename(mount.join("ours"), mount.join("renamed"))?;
        fs::create_dir(mount.join("folder"))?;
        fs::remove_file(mount.join("theirs"))?;
        ensure!(server.sh(&id, "cd shared; echo *")? == "folder renamed");
        Ok(())
    };
    let used = used();
    finish(Command::new("fusermount3").arg("-u").arg(&mount))?.ok().context("unmounting")?;
    used
}
