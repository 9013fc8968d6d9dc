//! `windlass add` as it is typed, in a project that `windlass new` made. That what comes out compiles and passes its tests is
//! tried by `cargo xtask templates`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A fresh project of a template.
fn project(name: &str, template: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("added").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let made = windlass(
        dir.parent().unwrap(),
        &format!("new inn-keeper --group inns.example.org --template {template} --dir {name}"),
    );
    assert_eq!(made.0, 0, "{}", made.1);
    dir
}

/// Types `windlass ...` in a folder; the exit code, and what was printed.
fn windlass(dir: &Path, args: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    let output = command.args(args.split_whitespace()).current_dir(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Every file with its text.
fn files(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            all.insert(path, text);
        }
    }
    all
}

#[test]
fn each_template_is_added_to() {
    for template in ["basic", "webhook", "multi-version"] {
        let dir = project(&format!("to-{template}"), template);
        let before = files(&dir);
        for (args, made) in [
            ("add api FrontPage --version v1beta1", "made    config/front_page.yaml"),
            ("add controller FrontPage", "made    tests/front_page_controller.rs"),
            ("add webhook FrontPage", "made    tests/front_page_webhooks.rs"),
        ] {
            let (code, said) = windlass(&dir, args);
            assert_eq!(code, 0, "{template}: {args}: {said}");
            assert!(said.contains(made) && said.contains("changed src/"), "{said}");
        }
        let after = files(&dir);
        let kind = &after[&dir.join("src/front_page.rs")];
        assert!(
            kind.contains("group = \"inns.example.org\"") && kind.contains("version = \"v1beta1\""),
            "{kind}"
        );
        let lib = &after[&dir.join("src/lib.rs")];
        for line in ["mod front_page;", ".crd::<FrontPage>()", ".with(front_page_controller::add)"] {
            assert!(lib.contains(line), "{template}: {lib}");
        }
        // One server, however many kinds it is asked about.
        let servers: Vec<&String> = after.values().filter(|text| text.contains("Webhooks::new(")).collect();
        assert_eq!(servers.len(), 1, "{template}");
        assert!(servers[0].contains("front_page_webhooks::Rules"), "{}", servers[0]);
        let changed: Vec<&PathBuf> =
            before.iter().filter(|(path, text)| after[*path] != **text).map(|(path, _)| path).collect();
        assert!(
            changed.len() <= 2 && changed.iter().all(|path| path.starts_with(dir.join("src"))),
            "{changed:?}"
        );
    }
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let dir = project("refused", "webhook");
    fs::write(dir.join("src/cellar.rs"), "//! Mine.\n").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("empty/Cargo.toml"), "[package]\nname = \"empty\"\n").unwrap();
    let before = files(&dir);
    let table = [
        ("add api inn", "windlass: \"inn\" is no kind: it is written as in GuestBook"),
        ("add api Pod", "windlass: the name Pod is taken already"),
        ("add api Room --group rooms", "windlass: \"rooms\" is no group: it is a domain, as in example.com"),
        (
            "add api Room --version beta",
            "windlass: \"beta\" is no version: it is written as in v1, v1beta2 or v1alpha1",
        ),
        ("add api InnKeeper", "windlass: the kind InnKeeper is there already"),
        ("add api Cellar", "windlass: src/cellar.rs is there already"),
        (
            "add controller Room",
            "windlass: src/lib.rs has no public kind Room; `windlass add api Room` would make one",
        ),
        ("add controller InnKeeper", "windlass: InnKeeper has a controller already, in src/lib.rs"),
        ("add webhook InnKeeper", "windlass: InnKeeper has hooks already, in src/webhooks/budget.rs"),
        (
            "add api Room --project nowhere",
            "windlass: nowhere is no operator's folder: there is no Cargo.toml in it",
        ),
        (
            "add api Room --project empty",
            "windlass: empty has no src/lib.rs, which is where an operator is put together",
        ),
    ];
    for (args, sentence) in table {
        let (code, said) = windlass(&dir, args);
        assert_eq!((code, said.trim_end()), (1, sentence), "{args}");
        assert!(files(&dir) == before, "{args}");
    }
    fs::write(dir.join("src/cellar.rs"), "//! Mine.\nfn {\n").unwrap();
    let (code, said) = windlass(&dir, "add api Room");
    assert_eq!(
        (code, said.as_str()),
        (1, "windlass: src/cellar.rs:2:4: cannot parse string into token stream\n")
    );
}

#[test]
fn an_operator_that_is_put_together_otherwise_is_left_to_its_author() {
    let dir = project("by-hand", "basic");
    let lib = dir.join("src/lib.rs");
    let text = fs::read_to_string(&lib).unwrap();
    let text = text
        .replace("    Operator::new(", "    let operator = Operator::new(")
        .replace("    })\n}", "    });\n    operator\n}");
    fs::write(&lib, &text).unwrap();
    let (code, said) = windlass(&dir, "add api Room");
    let expected = "made    src/room.rs\nmade    config/room.yaml\nchanged src/lib.rs\nwindlass: the operator is not put \
                    together as a chain of calls in src/lib.rs, so these lines are left to you:\n    .crd::<Room>()    (after \
                    `Operator::new(...)`)\n";
    assert_eq!((code, said.as_str()), (1, expected));
    let after = fs::read_to_string(&lib).unwrap();
    let without =
        after.replace("mod room;\n", "").replace("pub use room::{Room, RoomSpec, RoomStatus};\n", "");
    assert_eq!(without, text);
}

#[test]
fn what_is_not_formatted_stays_so() {
    let dir = project("own-style", "basic");
    let lib = dir.join("src/lib.rs");
    let text = fs::read_to_string(&lib)
        .unwrap()
        .replace("use windlass::{Controller, Operator};", "use windlass::{Controller,Operator};");
    fs::write(&lib, &text).unwrap();
    let (code, said) = windlass(&dir, "add api Room");
    assert_eq!(code, 0, "{said}");
    let after = fs::read_to_string(&lib).unwrap();
    let added = ["mod room;\n", "pub use room::{Room, RoomSpec, RoomStatus};\n", ".crd::<Room>()"];
    let without = added.iter().fold(after, |after, added| after.replacen(added, "", 1));
    assert_eq!(without, text);
}
