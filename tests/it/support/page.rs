//! The forms of an HTML page, as far as the suite's pages need them.

use http::Method;

/// A form and the fields that it sends of itself.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) action: String,
    pub(crate) method: Method,
    /// Inputs with their values, buttons not among them.
    pub(crate) fields: Vec<(String, String)>,
}

/// Every form of this page.
pub(crate) fn forms(html: &str) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut inside = false;
    for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        let attribute = |name: &str| attribute(tag, name);
        match tag.split_ascii_whitespace().next().unwrap_or_default() {
            "form" => {
                let post = attribute("method").is_some_and(|method| method.eq_ignore_ascii_case("post"));
                let method = if post { Method::POST } else { Method::GET };
                forms.push(Form { action: attribute("action").unwrap_or_default(), method, fields: Vec::new() });
                inside = true;
            }
            "/form" => inside = false,
            "input" if inside => {
                let field = attribute("name").map(|name| (name, attribute("value").unwrap_or_default()));
                if let Some(form) = forms.last_mut() {
                    form.fields.extend(field);
                }
            }
            _ => {}
        }
    }
    forms
}

/// The value of an attribute in double quotes.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!(" {name}=\"")).or_else(|| tag.find(&format!("\n{name}=\"")))? + name.len() + 3;
    let value = tag[start..].split('"').next()?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(value.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain)))
}
