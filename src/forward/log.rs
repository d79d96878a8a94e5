//! How log lines look: for the journal a level and no time, for a terminal the time as well.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter, warn};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time::FormatTime, time::SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Logs to stderr. `level` is the least important level that shows, info by default.
pub(crate) fn start(level: Option<LevelFilter>) {
    let terminal = std::io::stderr().is_terminal();
    // Somebody else's subscriber, as in a test, is as good.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_ansi(terminal)
        .with_writer(|| Unhurried(std::io::stderr()))
        .event_format(Line { terminal })
        .try_init();
}

/// Writes whole lines, or loses one when there is no room for it: who reads may stand still (a launcher or a terminal that is
/// stopped, a journal that hangs), and the app's connections must not.
struct Unhurried<W>(W);

/// What a pipe has room for if it has any (pipe(7)). Lines are shorter.
const AT_ONCE: usize = 4096;

impl<W: Write + AsFd> Write for Unhurried<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The descriptor may be others' as well, for whom O_NONBLOCK is not to be set.
        let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            self.0.write_all(&line[..line.len().min(AT_ONCE)])?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Keeps what anyone can cause at will from filling the journal.
#[derive(Default)]
pub(crate) struct Seldom {
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// Whether it may be said again: once in ten seconds.
    pub(crate) fn now(&self) -> bool {
        const PAUSE: Duration = Duration::from_secs(10);

        let Ok(mut last) = self.last.lock() else { return false };
        let due = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// The same for what is worth a line each time, as long as it is not too often: so many lines a period.
#[derive(Default)]
pub(super) struct Ration {
    period: Mutex<Option<Period>>,
}

struct Period {
    began: Instant,
    asked: u32,
}

impl Ration {
    const PERIOD: Duration = Duration::from_secs(10);
    /// More than a program that is set up wrongly makes; some hundred megabytes of journal a day at the most.
    const LINES: u32 = 50;

    /// Whether there is a line left. That lines are missing, and how many were, is said here.
    pub(super) fn has_one(&self) -> bool {
        let Asked { kept_back, number } = self.ask(Instant::now());
        if kept_back > 0 {
            warn!("{kept_back} more like these were not logged");
        }
        if number == Self::LINES + 1 {
            warn!("more like these are not logged for the next {:?}", Self::PERIOD);
        }
        number <= Self::LINES
    }

    fn ask(&self, now: Instant) -> Asked {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let over = period.take_if(|period| now.duration_since(period.began) >= Self::PERIOD);
        let period = period.get_or_insert(Period { began: now, asked: 0 });
        period.asked = period.asked.saturating_add(1);
        let kept_back = over.map_or(0, |over| over.asked.saturating_sub(Self::LINES));
        Asked { kept_back, number: period.asked }
    }
}

/// One line asked for: how many were kept back in a period that is over by it, and which one of its own it is.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    kept_back: u32,
    number: u32,
}

struct Line {
    terminal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        if self.terminal {
            SystemTime.format_time(&mut line)?;
            write!(line, " {level} ")?;
        } else {
            // sd-daemon(3): the journal takes the level off the line.
            write!(line, "<{}>", priority(level))?;
        }
        context.format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (mut said, pipe) = io::pipe().unwrap();
        let room = rustix::pipe::fcntl_setpipe_size(&pipe, 3 * AT_ONCE).unwrap();
        let mut log = Unhurried(pipe);
        let line = [b'x'; AT_ONCE + 1];
        for _ in 0..2 * room / AT_ONCE {
            assert_eq!(log.write(&line).unwrap(), line.len());
        }
        let mut held = vec![0; room];
        io::Read::read_exact(&mut said, &mut held).unwrap();
        log.write_all(b"again").unwrap();
        drop(log);
        assert_eq!(io::read_to_string(said).unwrap(), "again");
    }

    #[test]
    fn a_ration_is_for_a_period_and_counts_what_it_keeps_back() {
        let (ration, began) = (Ration::default(), Instant::now());
        let ask = |kept_back, number, after| {
            assert_eq!(ration.ask(began + after), Asked { kept_back, number }, "{after:?}");
        };
        for number in 1..=Ration::LINES + 7 {
            ask(0, number, Ration::PERIOD / 2);
        }
        // It begins with its first line, and what was kept back is told once.
        ask(7, 1, Ration::PERIOD * 2);
        ask(0, 2, Ration::PERIOD * 2);
        ask(0, 1, Ration::PERIOD * 9);
    }
}
