//! A line about a file as `ls -l` writes it, in the shape that OpenSSH's server has (`ls_file` in its `sftp-common.c`): clients show it to
//! people, and old ones take it apart. Times are in UTC.

use std::io::Write;

use rustix::fs::{FileType, Stat};

use super::accounts::Accounts;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY: i64 = 24 * 3600;

/// The line for the file `name`, as it reads at the time `now`, in seconds since 1970.
pub fn longname(name: &[u8], stat: &Stat, accounts: &Accounts, now: i64) -> Vec<u8> {
    let mut line = Vec::with_capacity(64 + name.len());
    // Writing to memory does not fail.
    let _ = write!(line, "{}  {:>3} ", mode(stat.st_mode), stat.st_nlink);
    for owner in [accounts.user(stat.st_uid), accounts.group(stat.st_gid)] {
        line.extend_from_slice(&owner);
        line.extend(std::iter::repeat_n(b' ', 8_usize.saturating_sub(owner.len()) + 1));
    }
    let _ = write!(line, "{:>8} {} ", stat.st_size, date(stat.st_mtime, now));
    line.extend_from_slice(name);
    line
}

/// The type and the permissions as `strmode(3)` writes them.
fn mode(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Socket => 's',
        FileType::Fifo => 'p',
        FileType::RegularFile => '-',
        FileType::Unknown => '?',
    };
    let mut text = String::from(kind);
    // For owner, group, others: their three bits, and the special one that shares a place with the last.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// With the time of the day for the last half year, else with the year.
fn date(time: i64, now: i64) -> String {
    let (year, month, day) = civil(time.div_euclid(DAY));
    let month = MONTHS[month];
    if time > now - 365 * DAY / 2 && time <= now {
        let minutes = time.rem_euclid(DAY) / 60;
        format!("{month} {day:>2} {:02}:{:02}", minutes / 60, minutes % 60)
    } else {
        format!("{month} {day:>2}  {year}")
    }
}

/// Year, month from 0, and day of the month, of a day counted from 1 January 1970 (the proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, usize, i64) {
    // Years are counted from March, so that the day that leap years add is their last; 400 of them are one period of 146,097 days.
    let days = days + 719_468;
    let (period, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 2 } else { month - 10 };
    (period * 400 + year + i64::from(month < 2), usize::try_from(month).unwrap_or(0), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_over_leap_years_and_before_1970() {
        for (seconds, date) in [
            (0, (1970, 0, 1)),
            (-1, (1969, 11, 31)),
            (951_782_400, (2000, 1, 29)),
            (951_868_800, (2000, 2, 1)),
            (1_709_164_800, (2024, 1, 29)),
            (4_107_542_399, (2100, 1, 28)),
            (4_107_542_400, (2100, 2, 1)),
            (-11_644_473_600, (1601, 0, 1)),
        ] {
            assert_eq!(civil(i64::div_euclid(seconds, DAY)), date, "{seconds}");
        }
        // Every day follows the one before.
        let mut before = civil(-200_000);
        for days in -199_999..200_000 {
            let (year, month, day) = civil(days);
            let next_day = (before.0, before.1, before.2 + 1);
            let next_month = if before.1 == 11 { (before.0 + 1, 0, 1) } else { (before.0, before.1 + 1, 1) };
            assert!((year, month, day) == next_day || ((year, month, day) == next_month && before.2 >= 28), "{days}");
            before = (year, month, day);
        }
        assert_eq!(before, (2517, 6, 31));
    }

    #[test]
    fn recent_files_have_a_time_and_others_a_year() {
        let now = 1_709_164_800 + 12 * 3600;
        assert_eq!(date(now, now), "Feb 29 12:00");
        assert_eq!(date(now + 1, now), "Feb 29  2024");
        assert_eq!(date(now - 200 * DAY, now), "Aug 13  2023");
    }

    #[test]
    fn modes_read_as_ls_writes_them() {
        assert_eq!(mode(0o040_755), "drwxr-xr-x");
        assert_eq!(mode(0o100_644), "-rw-r--r--");
        assert_eq!(mode(0o104_755), "-rwsr-xr-x");
        assert_eq!(mode(0o102_644), "-rw-r-Sr--");
        assert_eq!(mode(0o041_777), "drwxrwxrwt");
        assert_eq!(mode(0o120_777), "lrwxrwxrwx");
    }
}
