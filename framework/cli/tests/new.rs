//! `windlass new` as it is typed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Types `windlass ...` in a folder; the exit code, and what was printed.
fn windlass(dir: &Path, args: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    let output = command.args(args.split_whitespace()).current_dir(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Every file below a folder.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path.display().to_string());
        }
    }
    all.sort();
    all
}

#[test]
fn a_project_is_made() {
    let dir = folder("made");
    let (code, said) = windlass(&dir, "new night-watch --group town.example.org");
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    let project = dir.join("night-watch");
    let text = |path: &str| fs::read_to_string(project.join(path)).unwrap();
    assert!(text("Cargo.toml").contains("name = \"night-watch\""));
    assert!(text("src/api.rs").contains("kind = \"NightWatch\""));
    assert!(text("src/api.rs").contains("group = \"town.example.org\""));
    assert!(text("config/sample.yaml").contains("apiVersion: town.example.org/v1alpha1\nkind: NightWatch\n"));
    assert!(project.join(".github/workflows/ci.yaml").exists());
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let house = format!("windlass = {{ path = {:?} }}", checkout.join("framework").display().to_string());
    assert!(text("Cargo.toml").contains(&house), "{}", text("Cargo.toml"));
}

#[test]
fn windlass_may_come_from_git() {
    let dir = folder("git");
    let (code, said) = windlass(&dir, "new watch --git https://git.example.org/windlass --rev 0123abc");
    assert_eq!(code, 0, "{said}");
    let manifest = fs::read_to_string(dir.join("watch/Cargo.toml")).unwrap();
    let line = "minicluster = { git = \"https://git.example.org/windlass\", rev = \"0123abc\", default-features = false }";
    assert!(manifest.contains(line), "{manifest}");
    assert!(!manifest.contains("path ="), "{manifest}");
    assert!(!dir.join("watch/Cargo.lock").exists());
}

#[test]
fn what_cannot_be_made_changes_nothing() {
    let dir = folder("refused");
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/note"), "mine").unwrap();
    fs::write(dir.join("file"), "mine").unwrap();
    let before = files(&dir);
    let table = [
        ("new full", "windlass: full is there already, and not empty"),
        ("new file", "windlass: file: Not a directory (os error 20)"),
        (
            "new Full",
            "windlass: \"Full\" is no name for an operator: it is written as in guest-book, and begins with a letter",
        ),
        ("new pod", "windlass: the kind Pod is taken; --kind names another"),
        (
            "new a --template nothing",
            "windlass: \"nothing\" is no template; there are: basic, dynamic, multi-version, scheduler-plugin, webhook",
        ),
        ("new a --path /nowhere", "windlass: /nowhere is no checkout of Windlass"),
        ("new a --git \"", "windlass: \"\\\"\" is no address of a Git repository"),
        (
            "new a --git https://x.example --rev main",
            "windlass: --rev needs the hexadecimal name of a commit",
        ),
        ("new a --group nothing", "windlass: \"nothing\" is no group: it is a domain, as in example.com"),
    ];
    for (args, sentence) in table {
        let (code, said) = windlass(&dir, args);
        assert_eq!(code, 1, "{args}: {said}");
        assert!(said.trim_end().starts_with(sentence), "{args}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(files(&dir), before, "{args}");
    }
}
