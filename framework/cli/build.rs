//! Puts the templates into the program: a table of every file's path and text.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

fn main() {
    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where this is"))
        .join("../../templates");
    let root = root.canonicalize().expect("the templates are in the repository");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root).expect("it was found below").to_string_lossy().into_owned();
        writeln!(table, "    ({name:?}, include_str!({:?})),", file.to_string_lossy()).expect("memory");
    }
    table.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    fs::write(out.join("templates.rs"), table).expect("the folder is cargo's");
}

/// Every file of a template, and nothing that building one leaves behind; examples are there to be read.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", dir.display());
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() {
            _ if name == "target" || name == "Cargo.lock" || name == "examples" => {}
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}
