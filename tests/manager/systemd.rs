//! A fake systemd at the other end of a socket pair: takes units, holds their properties as the
//! real one does, and does what its script says wherever the real one can hardly be made to.

use std::collections::{HashMap, HashSet};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use tokio_stream::StreamExt;
use zbus::connection::Builder;
use zbus::message::{Message, Type};
use zbus::zvariant::{ObjectPath, OwnedValue, Value};
use zbus::{Connection, MessageStream};

/// Properties of one unit.
type Held = HashMap<String, OwnedValue>;
/// As StartTransientUnit takes them.
type Sent = Vec<(String, OwnedValue)>;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// Properties of the interface that all units have; any other belongs to the unit's own type.
const OF_EVERY_UNIT: [&str; 13] = [
    "Description",
    "CollectMode",
    "Requires",
    "Wants",
    "BindsTo",
    "PartOf",
    "After",
    "JoinsNamespaceOf",
    "StopWhenUnneeded",
    "StartLimitIntervalUSec",
    "DropInPaths",
    "ActiveState",
    "Job",
];

/// What this systemd does differently from one that works.
#[derive(Default, Clone)]
pub struct Script {
    /// Errors that StartTransientUnit answers, one a call, before it takes the units.
    pub refusals: Vec<&'static str>,
    /// The bus's queue for it is full at the first call of each method.
    pub busy: bool,
    /// The result of the jobs of units whose name ends so; `done` for all others.
    pub result: Option<(&'static str, &'static str)>,
    /// JobRemoved goes out before the reply that names the job.
    pub early: bool,
    /// So many other units' jobs end in the meantime.
    pub foreign: usize,
    /// The connection ends when this method is called: instead of its job's end, or of its reply.
    pub hang_up: Option<&'static str>,
    /// The app is over as soon as it is started: how its main process ended (CLD_*, status).
    pub dies: Option<(i32, i32)>,
    /// Unit, property and value that are held instead of what was sent; `None` takes it away.
    pub held: Vec<(&'static str, &'static str, Option<OwnedValue>)>,
}

/// Starts it; returns the client's connection and the calls that are made, as they come.
pub async fn serve(script: Script) -> (Connection, Arc<Mutex<Vec<String>>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stream = |end: UnixStream| {
        end.set_nonblocking(true).unwrap();
        Builder::unix_stream(tokio::net::UnixStream::from_std(end).unwrap()).p2p()
    };
    let server = stream(ours).server(zbus::Guid::generate()).unwrap();
    let (bus, client) = tokio::try_join!(server.build(), stream(theirs).build()).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let units = HashMap::from([("appfw.slice".to_owned(), slice("-.slice")), ("-.slice".to_owned(), slice(""))]);
    let systemd = Systemd { messages: MessageStream::from(&bus), bus, script, units, jobs: 0, calls: calls.clone() };
    tokio::spawn(systemd.run());
    (client, calls)
}

/// A value, owned.
pub fn value<'a>(value: impl Into<Value<'a>>) -> OwnedValue {
    value.into().try_into().unwrap()
}

fn slice(above: &str) -> Held {
    Held::from([("Slice".into(), value(above)), ("IPAddressAllow".into(), no_networks())])
}

fn no_networks() -> OwnedValue {
    value(Value::new(Vec::<(i32, Vec<u8>, u32)>::new()))
}

struct Systemd {
    messages: MessageStream,
    bus: Connection,
    script: Script,
    units: HashMap<String, Held>,
    jobs: u32,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Systemd {
    async fn run(mut self) {
        let mut called = HashSet::new();
        while let Some(Ok(message)) = self.messages.next().await {
            if message.message_type() != Type::MethodCall {
                continue;
            }
            let member = message.header().member().unwrap().to_string();
            if self.script.busy && called.insert(member.clone()) {
                self.refuse(&message, "org.freedesktop.DBus.Error.LimitsExceeded", "full queue").await;
                continue;
            }
            let hangs_up = self.script.hang_up.is_some_and(|method| method == member);
            match member.as_str() {
                // Between two peers messages have no sender.
                "GetNameOwner" => self.refuse(&message, "org.freedesktop.DBus.Error.NameHasNoOwner", "").await,
                "Get" | "GetAll" if hangs_up => {}
                "Get" => self.get(&message).await,
                "GetAll" => self.get_all(&message).await,
                "StartTransientUnit" => self.start_transient(&message, hangs_up).await,
                "StartUnit" | "StopUnit" => {
                    let (unit, _mode): (String, String) = message.body().deserialize().unwrap();
                    self.called(format!("{member} {unit}"));
                    self.job(&message, &unit, hangs_up).await;
                    if let ("StartUnit", Some(end)) = (member.as_str(), self.script.dies) {
                        self.end(&unit, end).await;
                    }
                }
                "KillUnit" => {
                    let (unit, who, signal): (String, String, i32) = message.body().deserialize().unwrap();
                    self.called(format!("KillUnit {unit} {who} {signal}"));
                    self.reply(&message, &()).await;
                }
                other => self.refuse(&message, "org.freedesktop.DBus.Error.UnknownMethod", other).await,
            }
            if hangs_up {
                self.bus.close().await.unwrap();
                return;
            }
        }
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    async fn reply<B: serde::Serialize + zbus::zvariant::DynamicType>(&self, call: &Message, body: &B) {
        self.bus.reply(&call.header(), body).await.unwrap();
    }

    async fn refuse(&self, call: &Message, name: &str, why: &str) {
        self.bus.reply_error(&call.header(), name, &why).await.unwrap();
    }

    async fn start_transient(&mut self, call: &Message, hangs_up: bool) {
        self.called("StartTransientUnit".into());
        if !self.script.refusals.is_empty() {
            let name = self.script.refusals.remove(0);
            return self.refuse(call, name, "said the fake").await;
        }
        let (name, _mode, sent, aux): (String, String, Sent, Vec<(String, Sent)>) = call.body().deserialize().unwrap();
        for (name, sent) in aux.into_iter().chain([(name.clone(), sent)]) {
            self.units.insert(name, held(sent));
        }
        for (unit, property, instead) in self.script.held.clone() {
            let held = self.units.entry(unit.to_owned()).or_default();
            match instead {
                Some(value) => held.insert(property.to_owned(), value),
                None => held.remove(property),
            };
        }
        self.job(call, &name, hangs_up).await;
    }

    /// Answers a call that queues a job, and ends the job.
    async fn job(&mut self, call: &Message, unit: &str, hangs_up: bool) {
        self.jobs += 1;
        let job = self.jobs;
        let result = match self.script.result {
            Some((end, result)) if unit.ends_with(end) => result,
            _ => "done",
        };
        if self.script.early {
            self.removed(job, unit, result).await;
        }
        self.reply(call, &job_path(job)).await;
        for other in 0..self.script.foreign {
            self.removed(1_000_000 + other as u32, &format!("other-{other}.service"), "failed").await;
        }
        if !self.script.early && !hangs_up {
            self.removed(job, unit, result).await;
        }
    }

    async fn removed(&self, job: u32, unit: &str, result: &str) {
        let body = (job, job_path(job), unit, result);
        let path = "/org/freedesktop/systemd1";
        self.bus.emit_signal(None::<&str>, path, MANAGER, "JobRemoved", &body).await.unwrap();
    }

    async fn end(&self, unit: &str, (code, status): (i32, i32)) {
        let path = ObjectPath::from_string_unchecked(encoded(unit));
        let service = HashMap::from([("ExecMainCode", Value::from(code)), ("ExecMainStatus", Value::from(status))]);
        let job = Value::new((0_u32, ObjectPath::from_static_str_unchecked("/")));
        let unit = HashMap::from([("ActiveState", Value::from("failed")), ("Job", job)]);
        for (interface, changed) in [("org.freedesktop.systemd1.Service", service), (UNIT, unit)] {
            let body = (interface, changed, Vec::<&str>::new());
            let properties = "org.freedesktop.DBus.Properties";
            self.bus.emit_signal(None::<&str>, &path, properties, "PropertiesChanged", &body).await.unwrap();
        }
    }

    fn held_of(&self, call: &Message) -> Option<&Held> {
        let path = call.header().path().unwrap().to_string();
        self.units.iter().find(|(unit, _)| encoded(unit) == path).map(|(_, held)| held)
    }

    async fn get(&self, call: &Message) {
        let (_, property): (String, String) = call.body().deserialize().unwrap();
        match self.held_of(call).and_then(|held| held.get(&property)) {
            Some(value) => self.reply(call, value).await,
            None => self.refuse(call, "org.freedesktop.DBus.Error.UnknownProperty", &property).await,
        }
    }

    async fn get_all(&self, call: &Message) {
        let interface: String = call.body().deserialize().unwrap();
        let asked = |property: &str| interface.is_empty() || (interface == UNIT) == OF_EVERY_UNIT.contains(&property);
        let held = self.held_of(call).into_iter().flatten();
        let of_interface: HashMap<_, _> = held.filter(|(property, _)| asked(property)).collect();
        self.reply(call, &of_interface).await;
    }
}

fn job_path(job: u32) -> ObjectPath<'static> {
    ObjectPath::from_string_unchecked(format!("/org/freedesktop/systemd1/job/{job}"))
}

/// sd_bus_path_encode(3), for names that begin with no digit.
fn encoded(unit: &str) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("_{byte:02x}") };
    format!("/org/freedesktop/systemd1/unit/{}", unit.bytes().map(byte).collect::<String>())
}

/// What systemd holds of what it was sent, and what it holds of what was not.
fn held(sent: Sent) -> Held {
    let mut held = Held::from([
        ("ExecStartPre".into(), value(Value::new(Vec::<Command>::new()))),
        ("PAMName".into(), value("")),
        ("Delegate".into(), value(false)),
        ("RemainAfterExit".into(), value(false)),
        ("PrivateNetwork".into(), value(false)),
        ("Environment".into(), value(Value::new(Vec::<String>::new()))),
        ("IPAddressAllow".into(), no_networks()),
        ("JoinsNamespaceOf".into(), value(Value::new(Vec::<String>::new()))),
        ("DropInPaths".into(), value(Value::new(Vec::<String>::new()))),
        ("ActiveState".into(), value("inactive")),
    ]);
    for (name, sent) in sent {
        let kept = match name.as_str() {
            "ExecStart" => {
                held.insert("ExecStartEx".to_owned(), executed(sent));
                continue;
            }
            // Dependencies that systemd adds of itself.
            "After" => with(sent, "sysinit.target"),
            // Not in the order of the call.
            "IPAddressDeny" => reversed(sent),
            _ if name.ends_with("FileDescriptor") || name == "AddRef" => continue,
            _ => sent,
        };
        held.insert(name, kept);
    }
    held
}

/// A command as it is read back: path, arguments, flags, four times, the process, how it ended.
pub type Command = (String, Vec<String>, Vec<String>, u64, u64, u64, u64, u32, i32, i32);

/// A command that has not run.
pub fn command(path: &str, argv: &[&str], flags: &[&str]) -> Command {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    (path.to_owned(), owned(argv), owned(flags), 0, 0, 0, 0, 0, 0, 0)
}

fn executed(sent: OwnedValue) -> OwnedValue {
    let sent: Vec<(String, Vec<String>, bool)> = Value::from(sent).try_into().unwrap();
    let held = sent.into_iter().map(|(path, argv, _)| (path, argv, Vec::new(), 0, 0, 0, 0, 0, 0, 0));
    value(Value::new(held.collect::<Vec<Command>>()))
}

fn with(sent: OwnedValue, more: &str) -> OwnedValue {
    let mut words: Vec<String> = Value::from(sent).try_into().unwrap();
    words.push(more.to_owned());
    value(Value::new(words))
}

fn reversed(sent: OwnedValue) -> OwnedValue {
    let mut networks: Vec<(i32, Vec<u8>, u32)> = Value::from(sent).try_into().unwrap();
    networks.reverse();
    value(Value::new(networks))
}
