//! What time it is to policies: the minute, in the mesh's named zones.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use weft_model::intent::PolicyInputs;

use super::UTC;

/// The minute of a moment, counted from 1970. Nothing that policies see of the time changes within one: offsets of time zones are whole minutes since
/// long before that.
pub(crate) fn minute(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

/// The named zones. From the database that is a part of this program, so that every sidecar has the same.
#[derive(Debug)]
pub(crate) struct Clock {
    zones: Vec<(Arc<str>, TimeZone)>,
}

impl Clock {
    /// # Errors
    /// The name of a zone that this version of the database does not have.
    pub(crate) fn new(inputs: &PolicyInputs) -> Result<Self, Arc<str>> {
        let database = TimeZoneDatabase::bundled();
        let mut zones = vec![(UTC.into(), TimeZone::UTC)];
        for (name, zone) in &inputs.time_zones {
            zones.push((name.clone(), database.get(zone).map_err(|_| zone.clone())?));
        }
        Ok(Self { zones })
    }

    /// The same of each zone.
    pub(crate) fn all(&self, minute: u64) -> impl Iterator<Item = (&str, DateTime)> {
        self.zones.iter().filter_map(move |(name, _)| Some((&**name, self.local(name, minute)?)))
    }

    /// What a clock on the wall shows in the zone of this name.
    pub(crate) fn local(&self, zone: &str, minute: u64) -> Option<DateTime> {
        let (_, zone) = self.zones.iter().find(|(name, _)| **name == *zone)?;
        let at = Timestamp::from_second(i64::try_from(minute * 60).ok()?).ok()?;
        Some(zone.to_datetime(at))
    }
}

/// As policies compare it.
pub(crate) fn weekday(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}
