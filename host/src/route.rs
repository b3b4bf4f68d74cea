//! Path to component: pure, and a lookup allocates nothing but what a match has to say.
//!
//! Laws (features.md H12): `/a/b` is exact, `/a/...` (or `/a/*`) takes the rest, `:name` takes one segment.
//! Segment by segment from the left, a literal beats a capture beats the rest; so exact beats wildcard and
//! the longer prefix wins. Of two routes with the same text the later one counts.

/// Below this prefix paths belong to the host (features.md H15).
pub const RESERVED: &str = "/.well-known/spin/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Literal,
    Capture,
    End,
    Rest,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Capture(String),
}

impl Segment {
    fn parse(text: &str) -> Self {
        match text.strip_prefix(':') {
            Some(name) if !name.is_empty() => Self::Capture(name.into()),
            _ => Self::Literal(text.into()),
        }
    }

    fn takes(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == text,
            Self::Capture(_) => !text.is_empty(),
        }
    }

    fn rank(&self) -> Rank {
        match self {
            Self::Literal(_) => Rank::Literal,
            Self::Capture(_) => Rank::Capture,
        }
    }
}

#[derive(Debug)]
pub struct Route<T> {
    raw: String,
    segments: Vec<Segment>,
    takes_rest: bool,
    pub target: T,
}

impl<T> Route<T> {
    fn new(raw: &str, target: T) -> Self {
        let (prefix, takes_rest) = match wildcard_prefix(raw) {
            Some(prefix) => (prefix, true),
            None => (raw, false),
        };
        let segments = segments(prefix).map(Segment::parse).collect();
        Self { raw: raw.into(), segments, takes_rest, target }
    }

    /// As the app wrote it, wildcard and all.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Without the wildcard.
    #[must_use]
    pub fn prefix(&self) -> &str {
        wildcard_prefix(&self.raw).unwrap_or(&self.raw)
    }

    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.takes_rest
    }

    /// More specific first.
    fn order(&self) -> impl Iterator<Item = Rank> {
        let last = if self.takes_rest { Rank::Rest } else { Rank::End };
        self.segments.iter().map(Segment::rank).chain([last])
    }

    /// What the wildcard takes of `path` (empty without one), or nothing if the route does not match.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut rest = path;
        for segment in &self.segments {
            let (text, after) = split_segment(rest)?;
            if !segment.takes(text) {
                return None;
            }
            rest = after;
        }
        match (self.takes_rest, rest) {
            (true, rest) => Some(rest),
            // A trailing slash is not another segment.
            (false, "" | "/") => Some(""),
            (false, _) => None,
        }
    }
}

#[derive(Debug)]
pub struct Match<'t, 'p, T> {
    pub route: &'t Route<T>,
    /// What the wildcard took, with its slash.
    pub path_info: &'p str,
    path: &'p str,
}

impl<'t, 'p, T> Match<'t, 'p, T> {
    /// The captured segments, by the names the route gives them.
    pub fn captures(&self) -> impl Iterator<Item = (&'t str, &'p str)> {
        self.route.segments.iter().zip(segments(self.path)).filter_map(|(segment, text)| {
            match segment {
                Segment::Capture(name) => Some((name.as_str(), text)),
                Segment::Literal(_) => None,
            }
        })
    }
}

/// All routes of an app.
#[derive(Debug)]
pub struct Routes<T> {
    /// Most specific first, so that the first match is the best.
    by_rank: Vec<Route<T>>,
}

impl<T> Routes<T> {
    /// Builds the table, and returns beside it what later routes of the same text have displaced.
    pub fn new<'r>(routes: impl IntoIterator<Item = (&'r str, T)>) -> (Self, Vec<Route<T>>) {
        let mut table: Vec<Route<T>> = Vec::new();
        let mut displaced = Vec::new();
        for (raw, target) in routes {
            if let Some(at) = table.iter().position(|route| route.raw == raw) {
                displaced.push(table.remove(at));
            }
            table.push(Route::new(raw, target));
        }
        // Stable: between routes that differ only in the names of captures, the earlier one counts.
        table.sort_by(|a, b| a.order().cmp(b.order()));
        (Self { by_rank: table }, displaced)
    }

    #[must_use]
    pub fn find<'p>(&self, path: &'p str) -> Option<Match<'_, 'p, T>> {
        self.by_rank
            .iter()
            .find_map(|route| Some(Match { route, path_info: route.rest(path)?, path }))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route<T>> {
        self.by_rank.iter()
    }
}

fn wildcard_prefix(raw: &str) -> Option<&str> {
    raw.strip_suffix("/...").or_else(|| raw.strip_suffix("/*"))
}

/// The first segment of a path that begins with a slash, and what is after it.
fn split_segment(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    // "/" and "" have no segments; a trailing slash adds none.
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    trimmed.split('/').take(if trimmed.is_empty() { 0 } else { usize::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&'static str]) -> Routes<()> {
        Routes::new(routes.iter().map(|raw| (*raw, ()))).0
    }

    fn winner<'r>(routes: &'r Routes<()>, path: &str) -> Option<&'r str> {
        routes.find(path).map(|found| found.route.raw())
    }

    #[test]
    fn an_exact_route_matches_itself_only() {
        let routes = table(&["/a/b"]);
        for (path, hit) in [
            ("/a/b", true),
            ("/a/b/", true),
            ("/a", false),
            ("/a/b/c", false),
            ("/a/bc", false),
            ("/A/b", false),
            ("/", false),
        ] {
            assert_eq!(winner(&routes, path).is_some(), hit, "{path}");
        }
    }

    #[test]
    fn the_root_wildcard_takes_everything() {
        for raw in ["/...", "/*"] {
            let routes = table(&[raw]);
            for path in ["/", "/a", "/a/b/c", "//", "/a//b/"] {
                let found = routes.find(path).unwrap();
                assert_eq!(found.path_info, path);
                assert_eq!(found.route.prefix(), "");
            }
        }
    }

    #[test]
    fn the_root_route_is_exact() {
        let routes = table(&["/"]);
        assert_eq!(winner(&routes, "/"), Some("/"));
        assert_eq!(winner(&routes, "/a"), None);
    }

    #[test]
    fn a_wildcard_takes_its_prefix_too_and_keeps_the_rest_as_it_is() {
        let routes = table(&["/a/..."]);
        for (path, rest) in [("/a", ""), ("/a/", "/"), ("/a/b", "/b"), ("/a/b%20c/d/", "/b%20c/d/")]
        {
            assert_eq!(routes.find(path).unwrap().path_info, rest, "{path}");
        }
        assert_eq!(winner(&routes, "/ab"), None);
        assert_eq!(winner(&routes, "/"), None);
    }

    #[test]
    fn exact_beats_capture_beats_wildcard_in_any_order_of_declaration() {
        let mut raws = vec!["/...", "/a/...", "/a/b", "/a/:x", "/a/b/...", "/:x/b"];
        for _ in 0..raws.len() {
            raws.rotate_left(1);
            let routes = table(&raws);
            for (path, expected) in [
                ("/a/b", "/a/b"),
                ("/a/c", "/a/:x"),
                ("/a/b/c", "/a/b/..."),
                ("/a/c/d", "/a/..."),
                ("/z/b", "/:x/b"),
                ("/z", "/..."),
                ("/", "/..."),
            ] {
                assert_eq!(winner(&routes, path), Some(expected), "{path} in {raws:?}");
            }
        }
    }

    #[test]
    fn captures_have_their_names_and_are_never_empty() {
        let routes = table(&["/users/:user_id/items/:item/..."]);
        let found = routes.find("/users/7/items/x%2Fy/z").unwrap();
        let captures: Vec<_> = found.captures().collect();
        assert_eq!(captures, [("user_id", "7"), ("item", "x%2Fy")]);
        assert_eq!(found.path_info, "/z");
        assert!(routes.find("/users//items/x").is_none());
    }

    #[test]
    fn the_later_of_two_equal_routes_counts() {
        let (routes, displaced) = Routes::new([("/a", 1), ("/b", 2), ("/a", 3)]);
        assert_eq!(routes.find("/a").unwrap().route.target, 3);
        assert_eq!(displaced.iter().map(|route| route.target).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn no_route_is_no_match() {
        assert!(table(&[]).find("/").is_none());
        assert!(table(&["/..."]).find("*").is_some_and(|found| found.path_info == "*"));
    }
}
