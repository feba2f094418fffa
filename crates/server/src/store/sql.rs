//! SQL texts that run unchanged on SQLite and PostgreSQL, checked when the program is compiled.

/// One SQL statement. Made in a `const`, so that a text which breaks a house rule does not compile.
///
/// The rules: parameters are `$1`, `$2`, … numbered in the order of their first appearance, because SQLite binds them in that order
/// whatever their numbers say; no other parameter forms; nothing that only one of the two databases knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sql(&'static str);

impl Sql {
    /// Takes a statement that keeps the rules.
    pub(super) const fn new(text: &'static str) -> Self {
        match fault(text) {
            None => Self(text),
            Some(fault) => panic!("{}", fault),
        }
    }

    pub(super) const fn text(self) -> &'static str {
        self.0
    }
}

/// Words that only one of the two databases knows, or that they read differently.
const FORBIDDEN: [&str; 22] = [
    "rowid",
    "autoincrement",
    "replace",
    "ignore",
    "ifnull",
    "glob",
    "pragma",
    "strict",
    "without",
    "datetime",
    "strftime",
    "unixepoch",
    "julianday",
    "json",
    "json_extract",
    "group_concat",
    "last_insert_rowid",
    "changes",
    "integer",
    "blob",
    "real",
    "serial",
];

/// The rule that `text` breaks, if it breaks one.
const fn fault(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let mut highest = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\'' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'\'' {
                    at += 1;
                }
                if at == bytes.len() {
                    return Some("a text in quotes does not end");
                }
                at += 1;
            }
            b'-' if at + 1 < bytes.len() && bytes[at + 1] == b'-' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'$' => {
                let (number, end) = number(bytes, at + 1);
                if number == 0 || number > highest + 1 {
                    return Some("parameters must be $1, $2, ... in the order of their first appearance");
                }
                if number > highest {
                    highest = number;
                }
                at = end;
            }
            b'?' | b'@' => return Some("parameters must be written $1, $2, ..."),
            b'"' | b'`' | b'[' | b']' => return Some("names must need no quotes"),
            b':' => return Some("casts with :: and parameters with : are not common to both databases"),
            b'-' if at + 1 < bytes.len() && bytes[at + 1] == b'>' => return Some("JSON is not read in SQL"),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let end = word_end(bytes, at);
                let mut i = 0;
                while i < FORBIDDEN.len() {
                    if same(bytes, at, end, FORBIDDEN[i].as_bytes()) {
                        return Some("a word in it is not common to both databases");
                    }
                    i += 1;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

const fn number(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut number = 0;
    while at < bytes.len() && bytes[at].is_ascii_digit() && number < 1000 {
        number = number * 10 + (bytes[at] - b'0') as usize;
        at += 1;
    }
    (number, at)
}

const fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
        at += 1;
    }
    at
}

const fn same(bytes: &[u8], start: usize, end: usize, word: &[u8]) -> bool {
    if end - start != word.len() {
        return false;
    }
    let mut i = 0;
    while i < word.len() {
        if !bytes[start + i].eq_ignore_ascii_case(&word[i]) {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_both_databases_read_alike_pass() {
        for text in [
            "select id from boxes where account = $1 and id = $2 and id <> $1",
            "insert into t (a) values ($1) on conflict (a) do update set b = 'what? \"[$9]' -- it's $7 fine\n",
            "update boxes set a = a + $1 where b = $2 returning c",
            "select 1 - 1, replaced from t",
        ] {
            assert_eq!(fault(text), None, "{text}");
        }
    }

    #[test]
    fn texts_that_only_one_database_reads_are_faulted() {
        for text in [
            "select a from t where b = $2 and c = $1",
            "select a from t where b = $1 and c = $3",
            "select a from t where b = $0",
            "select a from t where b = $",
            "select a from t where b = ?",
            "select a from t where b = ?1",
            "select a from t where b = :b",
            "select a from t where b = @b",
            "select a::text from t",
            "select a->'b' from t",
            "select a ->> 'b' from t",
            "select \"a\" from t",
            "select [a] from t",
            "select ROWID from t",
            "insert or replace into t (a) values ($1)",
            "INSERT OR IGNORE INTO t (a) VALUES ($1)",
            "create table t (a integer primary key autoincrement)",
            "select 'unfinished from t",
        ] {
            assert!(fault(text).is_some(), "{text}");
        }
    }
}
