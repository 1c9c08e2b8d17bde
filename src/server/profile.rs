//! A profile of where this process spends its CPU time, in pprof's format: what `go tool pprof` reads.
//!
//! While one is taken the kernel interrupts whoever runs, a hundred times for each second of CPU time, and the handler
//! notes the stack in memory that was set aside before. It takes no lock, allocates nothing and makes one system call;
//! names are looked up when it is over. While none is taken there is no timer, no memory and no symbol table.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

/// Go's rate.
const SAMPLES_PER_SECOND: i64 = 100;
const PERIOD_NANOS: i64 = 1_000_000_000 / SAMPLES_PER_SECOND;
/// Frames of a stack that are noted; the outermost of deeper ones are left out.
const MAX_FRAMES: usize = 125;
/// A sample is its depth, the name of its thread, and its frames.
const NAME_WORDS: usize = 2;
const SAMPLE_WORDS: usize = 1 + NAME_WORDS + MAX_FRAMES;
/// 32 MiB of memory, which is touched only as it fills; what comes after that is left out.
const MAX_SAMPLES: usize = 32 << 10;

/// A profile that is being taken. It ends when this is dropped.
pub struct Sampling {
    recording: *mut Recording,
    began: Instant,
    began_at: SystemTime,
}

// SAFETY: the pointer is to a `Recording` that only atomics change, and is freed by whoever has this.
unsafe impl Send for Sampling {}

/// Stacks as they were noted.
struct Recording {
    next: AtomicUsize,
    words: Box<[AtomicUsize]>,
}

/// What the handler writes to; null while nothing is recorded.
static RECORDING: AtomicPtr<Recording> = AtomicPtr::new(ptr::null_mut());
/// Handlers that may look at it.
static IN_HANDLER: AtomicUsize = AtomicUsize::new(0);

impl Sampling {
    /// Begins a profile that is to last about so long. The error says why there can be none now.
    pub fn start(length: Duration) -> Result<Sampling, String> {
        // The unwinder loads what it needs when it is first used; not in a signal's handler, please.
        backtrace::trace(|_| true);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let samples = (length.as_secs() as usize + 1).saturating_mul(cores + 1) * SAMPLES_PER_SECOND as usize;
        let recording = Box::into_raw(Box::new(Recording::new(samples.min(MAX_SAMPLES))));
        if RECORDING.compare_exchange(ptr::null_mut(), recording, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: it was made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(recording) });
            return Err("cpu profiling already in use".to_owned());
        }
        let sampling = Sampling { recording, began: Instant::now(), began_at: SystemTime::now() };
        install_handler().and_then(|()| set_timer(PERIOD_NANOS / 1000)).map_err(|error| error.to_string())?;
        Ok(sampling)
    }

    /// Ends it, and returns it as compressed protobuf. Looking names up may take seconds: not for a thread that serves.
    pub fn finish(self) -> std::io::Result<Vec<u8>> {
        self.halt();
        // SAFETY: it is freed in `drop`, not before.
        let samples = unsafe { &*self.recording }.samples();
        let profile = Builder::default().build(samples, self.began_at, self.began.elapsed());
        backtrace::clear_symbol_cache();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&profile.encode_to_vec())?;
        gzip.finish()
    }

    /// No handler writes any more when this returns.
    fn halt(&self) {
        if RECORDING.load(Ordering::SeqCst) != self.recording {
            // Halted before; the timer may be somebody else's by now.
            return;
        }
        // Zero turns it off, which cannot fail.
        let _ = set_timer(0);
        // The handler stays: a signal may still be under way, and without one it ends the process.
        RECORDING.store(ptr::null_mut(), Ordering::SeqCst);
        while IN_HANDLER.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.halt();
        // SAFETY: made by `start`, and no handler can reach it after `halt`.
        drop(unsafe { Box::from_raw(self.recording) });
    }
}

impl Recording {
    fn new(samples: usize) -> Recording {
        // Zeros straight from the kernel: pages that are never written cost nothing.
        let words = Box::into_raw(vec![0_usize; samples * SAMPLE_WORDS].into_boxed_slice());
        // SAFETY: an atomic has the size and the alignment of what is in it.
        Recording { next: AtomicUsize::new(0), words: unsafe { Box::from_raw(words as *mut [AtomicUsize]) } }
    }

    /// Notes the stack of the thread that calls. From a signal's handler.
    fn take(&self) {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(sample) = self.words.chunks_exact(SAMPLE_WORDS).nth(at) else { return };
        let mut name = [0_u8; NAME_WORDS * size_of::<usize>()];
        // SAFETY: PR_GET_NAME writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        for (word, bytes) in sample[1..].iter().zip(name.chunks_exact(size_of::<usize>())) {
            word.store(usize::from_ne_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
        }
        let frames = &sample[1 + NAME_WORDS..];
        let mut depth = 0;
        let note = |frame: &backtrace::Frame| {
            frames[depth].store(frame.ip() as usize, Ordering::Relaxed);
            depth += 1;
            depth < frames.len()
        };
        // SAFETY: the lock that this goes without keeps threads apart that look names up; no name is looked up here.
        unsafe { backtrace::trace_unsynchronized(note) };
        sample[0].store(depth, Ordering::Release);
    }

    /// Equal stacks counted, by thread and frames, the innermost first.
    fn samples(&self) -> HashMap<(String, Vec<usize>), i64> {
        let mut counts = HashMap::new();
        for sample in self.words.chunks_exact(SAMPLE_WORDS).take(self.next.load(Ordering::SeqCst)) {
            let depth = sample[0].load(Ordering::Acquire);
            let words = |from: &[AtomicUsize]| from.iter().map(|w| w.load(Ordering::Relaxed)).collect::<Vec<_>>();
            let name: Vec<u8> = words(&sample[1..1 + NAME_WORDS]).iter().flat_map(|w| w.to_ne_bytes()).collect();
            let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
            let frames = words(&sample[1 + NAME_WORDS..][..depth]);
            *counts.entry((name, frames)).or_default() += 1;
        }
        counts
    }
}

extern "C" fn on_profiling_signal(_: libc::c_int) {
    // SAFETY: errno is this thread's own; whoever was interrupted finds it as it was.
    unsafe {
        let errno = *libc::__errno_location();
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
        // What is loaded here is not freed before the count is back at zero.
        if let Some(recording) = RECORDING.load(Ordering::SeqCst).as_ref() {
            recording.take();
        }
        IN_HANDLER.fetch_sub(1, Ordering::SeqCst);
        *libc::__errno_location() = errno;
    }
}

fn install_handler() -> std::io::Result<()> {
    // SAFETY: all zeros are a valid sigaction; the handler does only what a handler may.
    let result = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_profiling_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn set_timer(micros: i64) -> std::io::Result<()> {
    let every = libc::timeval { tv_sec: 0, tv_usec: micros };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: setitimer reads the struct it is given.
    let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Puts the tables of a profile together: strings, functions and locations are named by their place in them.
#[derive(Default)]
struct Builder {
    strings: Table<String>,
    functions: Table<(i64, i64)>,
    profile: Profile,
    locations: HashMap<usize, Place>,
}

#[derive(Clone, Copy)]
struct Place {
    id: u64,
    /// The handler itself.
    is_handler: bool,
}

/// Values, numbered from 0 in the order in which they came.
struct Table<T>(HashMap<T, usize>);

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table(HashMap::new())
    }
}

impl<T: Eq + Hash> Table<T> {
    /// The number, and whether it is a new one.
    fn number(&mut self, value: T) -> (usize, bool) {
        let next = self.0.len();
        let number = *self.0.entry(value).or_insert(next);
        (number, number == next)
    }
}

impl Builder {
    fn build(mut self, samples: HashMap<(String, Vec<usize>), i64>, began: SystemTime, lasted: Duration) -> Profile {
        self.string("");
        let count = self.kind("samples", "count");
        let cpu = self.kind("cpu", "nanoseconds");
        self.profile.sample_type = vec![count, cpu];
        self.profile.period_type = Some(cpu);
        self.profile.period = PERIOD_NANOS;
        self.profile.time_nanos = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        self.profile.duration_nanos = lasted.as_nanos() as i64;
        for ((thread, frames), count) in samples {
            let places: Vec<Place> = frames.into_iter().map(|ip| self.location(ip)).collect();
            // The innermost are ours, and what the kernel put between the handler and whom it interrupted.
            let own = places.iter().position(|place| place.is_handler).map_or(0, |at| at + 2);
            let location_id: Vec<u64> = places.iter().skip(own).map(|place| place.id).collect();
            let label = Label { key: self.string("thread"), str: self.string(&thread) };
            let sample = Sample { location_id, value: vec![count, count * PERIOD_NANOS], label: vec![label] };
            self.profile.sample.push(sample);
        }
        self.profile
    }

    fn string(&mut self, text: &str) -> i64 {
        let (number, is_new) = self.strings.number(text.to_owned());
        if is_new {
            self.profile.string_table.push(text.to_owned());
        }
        number as i64
    }

    fn kind(&mut self, r#type: &str, unit: &str) -> ValueType {
        ValueType { r#type: self.string(r#type), unit: self.string(unit) }
    }

    /// A place in the code: more than one function where some were inlined.
    fn location(&mut self, ip: usize) -> Place {
        if let Some(place) = self.locations.get(&ip) {
            return *place;
        }
        let mut lines = Vec::new();
        let mut is_handler = false;
        backtrace::resolve(ip as *mut _, |symbol| {
            let name = symbol.name().map_or("?".to_owned(), |name| format!("{name:#}"));
            // A name that is also the linker's would be shortened as one of C++.
            let linked = symbol.name().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default();
            is_handler |= name.contains("on_profiling_signal");
            let file = symbol.filename().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            let key = (self.string(&name), self.string(&file));
            let (number, is_new) = self.functions.number(key);
            let function_id = number as u64 + 1;
            if is_new {
                let system_name = self.string(&linked);
                let function = Function { id: function_id, name: key.0, system_name, filename: key.1 };
                self.profile.function.push(function);
            }
            lines.push(Line { function_id, line: symbol.lineno().unwrap_or_default().into() });
        });
        let place = Place { id: self.locations.len() as u64 + 1, is_handler };
        self.locations.insert(ip, place);
        self.profile.location.push(Location { id: place.id, address: ip as u64, line: lines });
        place
    }
}

/// pprof's `profile.proto`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}
