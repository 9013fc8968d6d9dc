//! Transcripts: documents whose `console` blocks are typed into a shell, and compared with what it answers.
//!
//! ```text
//! $ kubectl get pods             typed once; the lines below it are what must be seen, stdout and stderr together
//! NAME   READY   STATUS          white space of any width counts as one blank
//! web-[..]  1/1  Running         `[..]` is any text within a line
//! ...                            any number of lines
//! ? 1                            the exit code, where it is not 0
//! ~ kubectl get pods             typed again and again until the answer is as expected
//! $ cat <<EOF                    a command goes on
//! > EOF                          in lines that begin with `>`
//! ```
//!
//! A block of another language with a file's name, such as `yaml web.yaml`, is written to that file.

use std::{fmt, fs, path::Path};

use anyhow::Context;

/// What a step of a transcript does.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Writes a file.
    Write { name: String, text: String },
    /// Types a command.
    Type(Command),
}

/// A command, and what must be seen.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Command {
    /// The line of the prompt, counted from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// Typed again until the answer is right.
    pub(crate) eventually: bool,
    pub(crate) expected: Vec<String>,
    pub(crate) code: i32,
}

/// What a shell answered.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) lines: Vec<String>,
    pub(crate) code: i32,
}

impl Answer {
    /// The answer in bytes, as lines without the returns that a terminal adds.
    pub(crate) fn new(bytes: &[u8], code: i32) -> Self {
        let text = String::from_utf8_lossy(bytes).replace('\r', "");
        Self { lines: text.trim_end().lines().map(str::to_owned).collect(), code }
    }
}

/// An answer that is not the expected one.
pub(crate) struct Mismatch<'a> {
    pub(crate) file: &'a Path,
    pub(crate) command: &'a Command,
    pub(crate) answer: &'a Answer,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, command, answer } = self;
        writeln!(f, "{}:{}: {}", file.display(), command.line, command.text)?;
        writeln!(f, "--- expected, with exit code {}", command.code)?;
        command.expected.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "--- seen, with exit code {}", answer.code)?;
        answer.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Command {
    /// True when the answer is the expected one.
    pub(crate) fn accepts(&self, answer: &Answer) -> bool {
        let expected: Vec<&str> = self.expected.iter().map(String::as_str).collect();
        let seen: Vec<&str> = answer.lines.iter().map(String::as_str).collect();
        self.code == answer.code && lines_match(&expected, &seen)
    }
}

/// Reads a transcript.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Step>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
        match info.split_once(' ') {
            _ if info == "console" => steps.extend(commands(&block)?.into_iter().map(Step::Type)),
            Some((_, name)) => {
                let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
                steps.push(Step::Write { name: name.to_owned(), text });
            }
            None => anyhow::bail!("line {}: the block is neither `console` nor a file", at + 1),
        }
    }
    Ok(steps)
}

fn commands(block: &[(usize, &str)]) -> anyhow::Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    for (at, line) in block {
        let begins =
            line.strip_prefix("$ ").map(|c| (c, false)).or(line.strip_prefix("~ ").map(|c| (c, true)));
        if let Some((text, eventually)) = begins {
            let line = at + 1;
            commands.push(Command { line, text: text.to_owned(), eventually, ..Command::default() });
            continue;
        }
        let command = commands.last_mut().with_context(|| format!("line {}: no command yet", at + 1))?;
        if let Some(more) = line.strip_prefix('>').filter(|_| command.expected.is_empty()) {
            command.text.push('\n');
            command.text.push_str(more.strip_prefix(' ').unwrap_or(more));
        } else if let Some(code) = line.strip_prefix("? ") {
            command.code = code.parse().with_context(|| format!("line {}: not an exit code", at + 1))?;
        } else {
            command.expected.push((*line).to_owned());
        }
    }
    for command in &mut commands {
        while command.expected.last().is_some_and(|line| line.trim().is_empty()) {
            command.expected.pop();
        }
    }
    Ok(commands)
}

/// Whether lines match patterns, `...` standing for any number of lines.
fn lines_match(patterns: &[&str], lines: &[&str]) -> bool {
    let fits = |patterns: &[&str], lines: &[&str]| {
        patterns.len() == lines.len()
            && patterns.iter().zip(lines).all(|(pattern, line)| line_matches(pattern, line))
    };
    let mut parts = patterns.split(|pattern| *pattern == "...");
    let first = parts.next().unwrap_or_default();
    let mut middle: Vec<&[&str]> = parts.collect();
    let Some(last) = middle.pop() else { return fits(first, lines) };
    let (Some(head), Some(end)) = (lines.get(..first.len()), lines.len().checked_sub(last.len())) else {
        return false;
    };
    let mut at = first.len();
    for part in middle {
        // The first place that fits is as good as any later one.
        let Some(found) =
            (at..lines.len()).find(|&i| lines.get(i..i + part.len()).is_some_and(|l| fits(part, l)))
        else {
            return false;
        };
        at = found + part.len();
    }
    at <= end && fits(first, head) && fits(last, &lines[end..])
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, line) = (blanks(pattern), blanks(line));
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The transcript with the expectation of one command replaced by an answer.
pub(crate) fn bless(
    path: &Path,
    command: &Command,
    answer: &Answer,
    shift: &mut isize,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(path)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let start = usize::try_from(isize::try_from(command.line)? + *shift)? + command.text.lines().count() - 1;
    let is_prompt = |line: &String| line.starts_with("$ ") || line.starts_with("~ ") || line == "```";
    let old = lines[start..].iter().position(is_prompt).context("the block has no end")?;
    let mut new = answer.lines.clone();
    new.extend((answer.code != 0).then(|| format!("? {}", answer.code)));
    *shift += isize::try_from(new.len())? - isize::try_from(old)?;
    lines.splice(start..start + old, new);
    fs::write(path, lines.join("\n") + "\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_match_up_to_blanks_and_wildcards() {
        let cases = [
            ("NAME  READY", "NAME      READY   ", true),
            ("web-[..] 1/1 [..]", "web-67c-hh8   1/1   Running", true),
            ("web-[..]-a", "web-b", false),
            ("[..]", "", true),
            ("a[..]b", "ab", true),
            ("a[..]b", "abc", false),
            ("ab[..]b", "ab", false),
        ];
        for (pattern, line, expected) in cases {
            assert_eq!(line_matches(pattern, line), expected, "{pattern} {line}");
        }
        assert!(lines_match(&["a", "...", "d"], &["a", "b", "c", "d"]));
        assert!(lines_match(&["a", "..."], &["a"]));
        assert!(lines_match(&["...", "b", "...", "b"], &["a", "b", "b"]));
        assert!(!lines_match(&["...", "b", "...", "b"], &["a", "b"]));
        assert!(!lines_match(&["a", "...", "d"], &["a", "b"]));
        assert!(!lines_match(&["a"], &["a", "b"]));
    }

    #[test]
    fn a_document_is_files_and_commands() {
        let text =
            "# T\n```yaml a.yaml\nkind: A\n```\n```console\n$ cat <<E\n> x\n> E\nx\n~ false\n? 1\n```\n";
        let command = |line, text: &str, expected: &[&str]| Command {
            line,
            text: text.to_owned(),
            expected: expected.iter().map(|&l| l.to_owned()).collect(),
            ..Command::default()
        };
        let write = Step::Write { name: "a.yaml".to_owned(), text: "kind: A\n".to_owned() };
        let shows = Step::Type(command(6, "cat <<E\nx\nE", &["x"]));
        let fails = Step::Type(Command { eventually: true, code: 1, ..command(10, "false", &[]) });
        assert_eq!(parse(text).unwrap(), [write, shows, fails]);
        assert!(parse("```console\nno prompt\n```").is_err());
    }
}
