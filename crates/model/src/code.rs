//! The stable codes of findings about intent files. Each has its paragraph in `docs/reference/findings.md`; a code is never reused.

/// The text is not YAML.
pub const YAML_SYNTAX: &str = "WEFT0101";
/// A file that cannot be read as text: not UTF-8, a symbolic link, a submodule, unreadable.
pub const UNREADABLE: &str = "WEFT0102";
/// A bound on sizes is exceeded.
pub const LIMIT: &str = "WEFT0103";
/// YAML that means something else than it seems: tags, merge keys, unknown or cyclic aliases, keys that are not text.
pub const YAML_FEATURE: &str = "WEFT0104";
/// A document without `kind`, or with one that does not exist.
pub const KIND: &str = "WEFT0105";
/// A field that its document does not have.
pub const UNKNOWN_FIELD: &str = "WEFT0106";
/// Something that the design knows and this version does not do yet.
pub const NOT_YET: &str = "WEFT0107";
/// A field that must be there and is not.
pub const MISSING_FIELD: &str = "WEFT0108";
/// A list where text is expected, and the like.
pub const WRONG_TYPE: &str = "WEFT0109";
/// The same key twice in one mapping.
pub const DUPLICATE_KEY: &str = "WEFT0110";
/// A value outside of what its field takes.
pub const BAD_VALUE: &str = "WEFT0111";
/// A duration that is not in the Gateway API's form, or out of range.
pub const DURATION: &str = "WEFT0112";
/// A name that is not legal.
pub const BAD_NAME: &str = "WEFT0113";
/// A name that the mesh keeps for itself.
pub const RESERVED: &str = "WEFT0114";
/// The same list entry twice.
pub const REPEATED: &str = "WEFT0115";
/// A list without entries, and so a document that does nothing.
pub const EMPTY_LIST: &str = "WEFT0116";
/// No `Mesh` document.
pub const NO_MESH: &str = "WEFT0120";
/// More than one `Mesh` document.
pub const SECOND_MESH: &str = "WEFT0121";
/// Two `Service` documents with one name.
pub const DUPLICATE_SERVICE: &str = "WEFT0122";
/// Two `Role` documents with one name.
pub const DUPLICATE_ROLE: &str = "WEFT0123";
/// Two `Operator` documents with one name.
pub const DUPLICATE_OPERATOR: &str = "WEFT0125";
/// Two `TrustDomain` documents with one name, or one of the mesh itself.
pub const DUPLICATE_TRUST_DOMAIN: &str = "WEFT0126";
/// An attribute, or a value of one, that `Mesh.attributes` does not declare.
pub const UNDECLARED_ATTRIBUTE: &str = "WEFT0124";
/// A service or namespace that no document declares.
pub const UNKNOWN_SERVICE: &str = "WEFT0130";
/// A role that no document declares.
pub const UNKNOWN_ROLE: &str = "WEFT0131";
/// A subset that the service does not declare.
pub const UNKNOWN_SUBSET: &str = "WEFT0132";
/// A trust domain that no document declares.
pub const UNKNOWN_TRUST_DOMAIN: &str = "WEFT0133";
/// A caller that is not written as one.
pub const BAD_CALLER: &str = "WEFT0140";
/// An `allow` entry that is not `METHOD /path`.
pub const BAD_ALLOW: &str = "WEFT0141";
/// A route match that is not legal or could never match.
pub const BAD_MATCH: &str = "WEFT0142";
/// Weights that send a rule's traffic nowhere.
pub const ZERO_WEIGHTS: &str = "WEFT0143";
/// A route match that an earlier one always wins over.
pub const SHADOWED: &str = "WEFT0144";
/// HTTP rules on a service that is not HTTP.
pub const NOT_HTTP: &str = "WEFT0145";
/// A subset that no written-down endpoint belongs to.
pub const EMPTY_SUBSET: &str = "WEFT0146";
/// A role that is a member of itself.
pub const ROLE_CIRCLE: &str = "WEFT0147";
/// A header field that no policy should read.
pub const BAD_INPUT: &str = "WEFT0148";
/// A call of a test that is not written as one.
pub const BAD_TEST: &str = "WEFT0149";
/// An endpoint, a profile, a bundle or a service of another trust domain that cannot be used.
pub const BAD_FEDERATION: &str = "WEFT0150";
/// An entry of `nodes` that cannot be used, or by which anybody could become somebody.
pub const BAD_NODE: &str = "WEFT0151";
/// A service whose calls are allowed when nobody can be asked.
pub const FAIL_OPEN: &str = "WEFT0215";
/// Bytes that may be TLS or not, of a protocol in which the server may speak first.
pub const PERMISSIVE_TCP: &str = "WEFT0222";
