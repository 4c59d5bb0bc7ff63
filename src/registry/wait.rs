//! How long to wait before the next try.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);

/// The wait before try number `tries` + 1: doubled each time, with up to a half more, so that many who were cut off at once do not come
/// back at once.
pub(crate) fn back_off(tries: u32) -> Duration {
    let wait = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(LONGEST);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    wait + wait.mul_f64(f64::from(nanos % 1000) / 2000.0)
}

/// `Retry-After`: seconds, or a date of RFC 9110 section 5.6.7 in the form that is sent today.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = UNIX_EPOCH + Duration::from_secs(http_date(text.trim())?);
    Some(then.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split_once(", ")?.1.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock.as_slice() else { return None };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || *hour > 23 || *minute > 59 || *second > 60 {
        return None;
    }
    // Days since 1970-01-01 of the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_retry_after() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (text, wanted) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ] {
            assert_eq!(retry_after(text, now).map(|wait| wait.as_secs()), wanted, "{text}");
        }
    }

    #[test]
    fn waits_grow_and_end_growing() {
        assert!(back_off(1) < Duration::from_millis(400));
        assert!(back_off(3) >= Duration::from_secs(1));
        assert!(back_off(40) <= LONGEST.mul_f64(1.5));
    }
}
