//! How log lines look: for the journal a level and no time, for a terminal the time as well.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time::FormatTime, time::SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Logs to stderr. `level` is the least important level that shows, info by default.
pub(super) fn start(level: Option<LevelFilter>) {
    let terminal = std::io::stderr().is_terminal();
    // Somebody else's subscriber, as in a test, is as good.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_ansi(terminal)
        .with_writer(std::io::stderr)
        .event_format(Line { terminal })
        .try_init();
}

/// Keeps what anyone can cause at will from filling the journal.
#[derive(Default)]
pub(super) struct Seldom {
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// Whether it may be said again: once in ten seconds.
    pub(super) fn now(&self) -> bool {
        const PAUSE: Duration = Duration::from_secs(10);

        let Ok(mut last) = self.last.lock() else { return false };
        let due = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
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
