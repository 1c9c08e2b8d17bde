//! Dates and Unix time, both ways.

use lockstep::calendar::Civil;

#[test]
fn every_second_has_one_date() {
    for (unix_s, date) in [
        (0, "1970-01-01T00:00:00"),
        (-1, "1969-12-31T23:59:59"),
        (951_782_399, "2000-02-28T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"),
        (1_709_251_199, "2024-02-29T23:59:59"),
        (4_107_542_399, "2100-02-28T23:59:59"),
        (4_107_542_400, "2100-03-01T00:00:00"),
        (253_402_300_799, "9999-12-31T23:59:59"),
        (-62_167_219_200, "0000-01-01T00:00:00"),
    ] {
        let civil = Civil::of_unix(unix_s);
        assert_eq!((civil.to_string().as_str(), civil.unix_s()), (date, unix_s));
    }
    // Every day of 800 years follows the one before.
    let (mut year, mut month, mut day) = (1600, 1, 1);
    for at in -135_140..157_055 {
        let civil = Civil::of_unix(at * 86_400);
        assert_eq!((civil.year, civil.month, civil.day), (year, month, day));
        assert_eq!(civil.unix_s(), at * 86_400);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
        (month, day) = if day == last { (month + 1, 1) } else { (month, day + 1) };
        if month == 13 {
            (year, month) = (year + 1, 1);
        }
    }
}

#[test]
fn what_is_no_date_runs_over() {
    let at = |month, day, hour, minute| Civil { year: 2023, month, day, hour, minute, second: 0 };
    for (civil, date) in [
        (at(2, 29, 0, 0), "2023-03-01T00:00:00"),
        (at(1, 0, 0, 0), "2022-12-31T00:00:00"),
        (at(12, 31, 24, 0), "2024-01-01T00:00:00"),
        (at(1, 1, 0, -90), "2022-12-31T22:30:00"),
    ] {
        assert_eq!(Civil::of_unix(civil.unix_s()).to_string(), date, "{civil:?}");
    }
}
