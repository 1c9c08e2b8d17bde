//! The options of a command: each is taken by name once, and whatever is left over is an error.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

pub struct Args(Vec<String>);

impl Args {
    pub fn new(words: Vec<String>) -> Self {
        Args(words)
    }

    /// A switch without a value.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() != before
    }

    /// `--name value` or `--name=value`.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        if let Some(at) = self.0.iter().position(|word| word == name) {
            if at + 1 == self.0.len() {
                return Err(format!("{name} needs a value"));
            }
            self.0.remove(at);
            return Ok(Some(self.0.remove(at)));
        }
        let found = self.0.iter().position(|w| w.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
        Ok(found.map(|at| self.0.remove(at)[name.len() + 1..].to_string()))
    }

    pub fn value<T>(&mut self, name: &str, default: T) -> Result<T, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.text(name)? {
            Some(text) => parse(name, &text),
            None => Ok(default),
        }
    }

    pub fn optional<T>(&mut self, name: &str) -> Result<Option<T>, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text(name)?.map(|text| parse(name, &text)).transpose()
    }

    pub fn seconds(&mut self, name: &str, default: f64) -> Result<Duration, String> {
        let seconds = self.value(name, default)?;
        Duration::try_from_secs_f64(seconds).map_err(|why| format!("{name} {seconds}: {why}"))
    }

    /// A list with commas in between.
    pub fn list<T>(&mut self, name: &str, default: &str) -> Result<Vec<T>, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name)?.unwrap_or_else(|| default.to_string());
        text.split(',').map(|word| parse(name, word.trim())).collect()
    }

    /// Fails when a word was not asked for by anybody.
    pub fn finish(self) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(format!("unknown option {:?}; see lockstep-bench help", self.0[0]))
    }
}

pub fn parse<T>(name: &str, text: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|why| format!("{name} {text:?}: {why}"))
}
