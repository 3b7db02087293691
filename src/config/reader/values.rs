//! The typed values of a [`Section`]: strings, paths, numbers, durations, lists and tables of them.

use std::{path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::section::Section;

impl Section<'_> {
    /// A string that is not empty.
    pub(crate) fn string(&self, key: &'static str) -> Option<String> {
        let text = self.value(key)?.get_ref().as_str();
        if text.is_none_or(str::is_empty) {
            self.problem(key, "write a string between quotes, not empty");
        }
        text.map(str::to_owned)
    }

    /// A string that must be present; `example` shows what to write. Empty if it is missing.
    pub(crate) fn required(&self, key: &'static str, example: &str) -> String {
        self.string(key).unwrap_or_else(|| {
            if !self.has(key) {
                self.problem(key, format!("missing; write for example `{key} = \"{example}\"`"));
            }
            String::new()
        })
    }

    /// A path, relative to the file's own folder.
    pub(crate) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.string(key).map(|text| self.resolve(&text))
    }

    /// A file that is part of the configuration: a change to it reloads the configuration.
    pub(crate) fn file(&self, key: &'static str) -> Option<PathBuf> {
        let path = self.path(key);
        self.file.add_files(path.clone());
        path
    }

    /// Like [`Section::file`], with a default that is relative to the file's own folder. `None` if the key holds no string.
    pub(crate) fn file_or(&self, key: &'static str, default: &str) -> Option<PathBuf> {
        if self.has(key) { self.file(key) } else { Some(self.default_file(default)) }
    }

    /// A file that is part of the configuration although no key names it.
    pub(crate) fn default_file(&self, name: &str) -> PathBuf {
        let path = self.resolve(name);
        self.file.add_files([path.clone()]);
        path
    }

    /// Several files that are part of the configuration.
    pub(crate) fn files(&self, key: &'static str) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> = self.strings(key).unwrap_or_default().iter().map(|text| self.resolve(text)).collect();
        self.file.add_files(paths.clone());
        paths
    }

    /// A list of strings that is not empty.
    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<String>> {
        let items = strings(self.value(key)?.get_ref());
        if items.as_ref().is_none_or(Vec::is_empty) {
            self.problem(key, format!("write a list of strings, such as `{key} = [\"a\", \"b\"]`"));
        }
        items
    }

    /// A list of lists of strings, such as `static = [["a", "b"]]`.
    pub(crate) fn string_lists(&self, key: &'static str) -> Vec<Vec<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = value.get_ref().as_array();
        let lists = items.and_then(|lists| lists.iter().map(|list| strings(list.get_ref())).collect());
        self.or_problem(key, lists, || format!("a list of lists, such as `{key} = [[\"a\", \"b\"]]`"))
    }

    /// Whether the key holds `[]`.
    pub(crate) fn is_empty_list(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// A whole number from `least` to `most`; `default` if the key is missing.
    pub(crate) fn number(&self, key: &'static str, default: u64, least: u64, most: u64) -> u64 {
        let Some(value) = self.value(key) else { return default };
        let number = integer(value.get_ref()).and_then(|n| u64::try_from(n).ok());
        number.filter(|n| (least..=most).contains(n)).unwrap_or_else(|| {
            self.problem(key, format!("write a whole number from {least} to {most}, without quotes"));
            default
        })
    }

    /// As [`Section::number`], for sizes and counts; `most` is far below `usize::MAX`.
    pub(crate) fn size(&self, key: &'static str, default: u64, least: u64, most: u64) -> usize {
        usize::try_from(self.number(key, default, least, most)).unwrap_or(usize::MAX)
    }

    /// `true` or `false`; `default` if the key is missing.
    pub(crate) fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.problem(key, "write `true` or `false`, without quotes");
            default
        })
    }

    /// Whether the key holds `true`, as in `tls = true`.
    pub(crate) fn is_true(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().as_bool() == Some(true))
    }

    /// Whether the key holds `false`, as in `tls = false`.
    pub(crate) fn is_false(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|v| v.get_ref().as_bool() == Some(false))
    }

    /// A duration such as `"30s"`, `"5m"` or `"24h"`, greater than zero; `default` if the key is missing.
    pub(crate) fn duration(&self, key: &'static str, default: Duration) -> Duration {
        let Some(value) = self.value(key) else { return default };
        let span = value.get_ref().as_str().and_then(|t| t.parse::<jiff::SignedDuration>().ok());
        span.and_then(|s| Duration::try_from(s).ok()).filter(|s| !s.is_zero()).unwrap_or_else(|| {
            self.problem(key, "write a time such as `\"30s\"`, `\"5m\"` or `\"24h\"`");
            default
        })
    }

    /// A string, a whole number or a boolean.
    pub(crate) fn scalar(&self, key: &'static str) -> Option<serde_json::Value> {
        let value = scalar(self.value(key)?.get_ref());
        if value.is_none() {
            self.problem(key, "write a string, a whole number, `true` or `false`");
        }
        value
    }

    /// A table of strings, such as `labels = { team = "platform" }`.
    pub(crate) fn string_map(&self, key: &'static str) -> Vec<(String, String)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pairs = pairs(value.get_ref(), |value| value.as_str().map(str::to_owned));
        self.or_problem(key, pairs, || format!("a table of strings, such as `{key} = {{ name = \"value\" }}`"))
    }

    /// A table of strings, whole numbers and booleans, such as `required_claims = { tenant = "t-1", verified = true }`.
    pub(crate) fn scalar_map(&self, key: &'static str) -> Vec<(String, serde_json::Value)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pairs = pairs(value.get_ref(), scalar).filter(|pairs| !pairs.is_empty());
        let what = || format!("a table of strings, numbers or booleans: `{key} = {{ name = \"value\" }}`");
        self.or_problem(key, pairs, what)
    }

    /// A table of numbers, such as `max = { "/parameters/horizon" = 128 }`.
    pub(crate) fn number_map(&self, key: &'static str) -> Vec<(String, serde_json::Number)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pairs = pairs(value.get_ref(), number).filter(|pairs| !pairs.is_empty());
        let what = || format!("a table of numbers, such as `{key} = {{ \"/parameters/horizon\" = 128 }}`");
        self.or_problem(key, pairs, what)
    }

    /// Any table as JSON: claims in the form in which a token carries them.
    pub(crate) fn json_object(&self, key: &'static str) -> Option<serde_json::Value> {
        let value = json(self.value(key)?.get_ref()).filter(serde_json::Value::is_object);
        if value.is_none() {
            self.problem(key, format!("write a table: `{key} = {{ name = \"value\" }}`, without dates"));
        }
        value
    }

    fn or_problem<T>(&self, key: &str, items: Option<Vec<T>>, what: impl FnOnce() -> String) -> Vec<T> {
        items.unwrap_or_else(|| {
            self.problem(key, format!("write {}", what()));
            Vec::new()
        })
    }
}

fn strings(value: &DeValue<'_>) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

/// The entries of a table, each read by `read`; `None` if one cannot be read.
fn pairs<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_table()?.iter().map(|(name, value)| Some((name.get_ref().to_string(), read(value.get_ref())?))).collect()
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    value.as_float()?.as_str().replace('_', "").parse().ok()
}

fn number(value: &DeValue<'_>) -> Option<serde_json::Number> {
    integer(value).map(Into::into).or_else(|| serde_json::Number::from_f64(float(value)?))
}

fn scalar(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Boolean(truth) => Some((*truth).into()),
        _ => integer(value).map(Into::into),
    }
}

fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::Float(_) => float(value).map(Into::into),
        DeValue::Array(items) => {
            items.iter().map(|item| json(item.get_ref())).collect::<Option<Vec<_>>>().map(Into::into)
        }
        DeValue::Table(_) => {
            pairs(value, json).map(|pairs| pairs.into_iter().collect::<serde_json::Map<_, _>>().into())
        }
        other => scalar(other),
    }
}
