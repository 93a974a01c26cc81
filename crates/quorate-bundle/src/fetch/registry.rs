//! Images from a registry, by the distribution HTTP API v2. Start at [`Registry::image`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use super::error::FetchError;
use super::http::{Client, Expected, FILE_BYTES_MAX, Url, accept, text};
use crate::digest::{Content, Hashing, Sha256};
use crate::image::Archive;
use crate::version::Arch;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ACCEPTED: &str = concat!(
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
);
/// The specification's own limit for a manifest.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// One image of a registry.
pub(super) struct Registry<'a> {
    client: &'a Client,
    base: &'a Url,
    /// Its name in the registry, with the path of the registry's address before it.
    name: String,
    headers: HeaderMap,
}

/// A manifest for one processor.
pub(super) struct ImageManifest {
    media_type: String,
    bytes: Vec<u8>,
    blobs: Vec<Blob>,
}

struct Blob {
    sha256: Sha256,
    size: u64,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ManifestFields {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl<'a> Registry<'a> {
    pub(super) fn image(client: &'a Client, base: &'a Url, name: &str) -> Self {
        let name = format!("{}/{name}", base.path())
            .trim_start_matches('/')
            .to_owned();
        Self {
            client,
            base,
            name,
            headers: HeaderMap::new(),
        }
    }

    fn url(&self, kind: &str, what: &str) -> Result<Url, FetchError> {
        self.base
            .with_path(&format!("/v2/{}/{kind}/{what}", self.name))
    }

    /// The manifest of a tag for one processor, checked against the digests that lead to it.
    pub(super) async fn manifest(
        &mut self,
        tag: &str,
        arch: Arch,
    ) -> Result<ImageManifest, FetchError> {
        let url = self.url("manifests", tag)?;
        self.log_in(&url).await?;
        let (media_type, bytes) = self.document(&url, None).await?;
        if media_type != OCI_INDEX && media_type != DOCKER_LIST {
            return read_manifest(&url, media_type, bytes);
        }
        let unusable = |why: String| FetchError::Image {
            url: url.to_string(),
            why,
        };
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|err| unusable(err.to_string()))?;
        let fits = |entry: &&Descriptor| {
            entry
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == arch.name())
        };
        let entry = index
            .manifests
            .iter()
            .find(fits)
            .ok_or_else(|| unusable(format!("it has no variant for linux/{arch}")))?;
        let expected = digest(&url, &entry.digest)?;
        let url = self.url("manifests", &format!("sha256:{expected}"))?;
        let (media_type, bytes) = self.document(&url, Some(expected)).await?;
        read_manifest(&url, media_type, bytes)
    }

    /// Downloads the blobs of a manifest, each to a file of its own in `partial`.
    pub(super) async fn blobs(
        &self,
        manifest: &ImageManifest,
        partial: &Path,
        seen: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<Vec<(PathBuf, Content)>, FetchError> {
        let total = Some(manifest.blobs.iter().map(|blob| blob.size).sum());
        let mut before = 0;
        let mut files = Vec::new();
        for blob in &manifest.blobs {
            let url = self.url("blobs", &format!("sha256:{}", blob.sha256))?;
            let path = partial.join(blob.sha256.to_string());
            let expected = Expected {
                sha256: blob.sha256,
                size: Some(blob.size),
            };
            let mut seen_here = |done, _| seen(before + done, total);
            let content = self
                .client
                .file(&url, &self.headers, &path, expected, &mut seen_here)
                .await?;
            before += content.size;
            files.push((path, content));
        }
        Ok(files)
    }

    /// A manifest or index: its media type and its bytes, which have the expected digest.
    async fn document(
        &self,
        url: &Url,
        expected: Option<Sha256>,
    ) -> Result<(String, Vec<u8>), FetchError> {
        let mut headers = accept(ACCEPTED);
        headers.extend(self.headers.clone());
        let (answered, bytes) = self.client.bytes(url, &headers, MANIFEST_BYTES_MAX).await?;
        let announced = text(&answered, HeaderName::from_static("docker-content-digest"));
        let announced = announced.and_then(|value| value.strip_prefix("sha256:")?.parse().ok());
        let found = Sha256::of(&bytes);
        if let Some(expected) = expected.or(announced).filter(|expected| *expected != found) {
            return Err(FetchError::Digest {
                url: url.to_string(),
                expected,
                found,
            });
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: Option<String>,
        }
        // The document's own word first: it is under the digest, the header is not.
        let own = serde_json::from_slice::<Head>(&bytes)
            .ok()
            .and_then(|head| head.media_type);
        let header = || {
            text(&answered, http::header::CONTENT_TYPE)
                .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned())
        };
        Ok((own.or_else(header).unwrap_or_default(), bytes))
    }

    /// Gets an anonymous token where the registry asks for one.
    async fn log_in(&mut self, url: &Url) -> Result<(), FetchError> {
        let response = self.client.get_once(url, &accept(ACCEPTED)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        let refused = || FetchError::Login {
            url: url.to_string(),
        };
        let challenge = text(response.headers(), WWW_AUTHENTICATE)
            .and_then(Challenge::parse)
            .ok_or_else(refused)?;
        let realm = Url::parse(&challenge.realm)?;
        if url.is_https() && !realm.is_https() {
            return Err(refused());
        }
        let query = format!(
            "{}?service={}&scope={}",
            realm.path(),
            encoded(&challenge.service),
            encoded(&challenge.scope)
        );
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let (_, bytes) = self
            .client
            .bytes(&realm.with_path(&query)?, &HeaderMap::new(), 1 << 20)
            .await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| refused())?;
        let token = answer.token.or(answer.access_token).ok_or_else(refused)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| refused())?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Ok(())
    }
}

impl ImageManifest {
    /// Writes the archive of an image whose blobs were downloaded.
    pub(super) fn archive(
        &self,
        reference: &str,
        arch: Arch,
        blobs: &[(PathBuf, Content)],
        out: &mut dyn Write,
    ) -> io::Result<Content> {
        let mut archive = Archive::start(out, reference, arch, &self.media_type, &self.bytes)?;
        for (path, content) in blobs {
            archive.stream(*content, |out| {
                let mut hashing = Hashing::new(out);
                io::copy(&mut File::open(path)?, &mut hashing)?;
                Ok(hashing.finish().1)
            })?;
        }
        archive.finish().map(|(_, content)| content)
    }

    /// The digest of the manifest: the name of the image's content.
    pub(super) fn digest(&self) -> Sha256 {
        Sha256::of(&self.bytes)
    }
}

fn read_manifest(
    url: &Url,
    media_type: String,
    bytes: Vec<u8>,
) -> Result<ImageManifest, FetchError> {
    let unusable = |why: String| FetchError::Image {
        url: url.to_string(),
        why,
    };
    if media_type != OCI_MANIFEST && media_type != DOCKER_MANIFEST {
        let shown: String = media_type.chars().take(100).collect();
        return Err(unusable(format!("its media type is {shown:?}")));
    }
    let fields: ManifestFields =
        serde_json::from_slice(&bytes).map_err(|err| unusable(err.to_string()))?;
    let mut distinct = BTreeSet::new();
    let mut blobs = Vec::new();
    for descriptor in std::iter::once(fields.config).chain(fields.layers) {
        if !descriptor.urls.is_empty() {
            return Err(unusable("a layer lies outside the registry".into()));
        }
        if descriptor.size > FILE_BYTES_MAX {
            return Err(unusable(format!("a layer has {} bytes", descriptor.size)));
        }
        let sha256 = digest(url, &descriptor.digest)?;
        // The same empty layer may appear several times.
        if distinct.insert(sha256) {
            blobs.push(Blob {
                sha256,
                size: descriptor.size,
            });
        }
    }
    Ok(ImageManifest {
        media_type,
        bytes,
        blobs,
    })
}

fn digest(url: &Url, text: &str) -> Result<Sha256, FetchError> {
    text.strip_prefix("sha256:")
        .and_then(|hex| hex.parse().ok())
        .ok_or_else(|| {
            let shown: String = text.chars().take(100).collect();
            FetchError::Image {
                url: url.to_string(),
                why: format!("expected a digest like sha256:…, found {shown:?}"),
            }
        })
}

/// `Bearer realm="https://…",service="…",scope="…"`
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
    scope: String,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix("Bearer ")?.trim();
        let mut challenge = Self::default();
        while !rest.is_empty() {
            let (name, value) = rest.split_once("=\"")?;
            let (value, after) = value.split_once('"')?;
            match name.trim() {
                "realm" => challenge.realm = value.to_owned(),
                "service" => challenge.service = value.to_owned(),
                "scope" => challenge.scope = value.to_owned(),
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }
}

fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges() {
        let challenge = Challenge::parse(
            "Bearer realm=\"https://a.example/token\",service=\"a\", scope=\"repository:x/y:pull,push\"",
        );
        let want = Challenge {
            realm: "https://a.example/token".into(),
            service: "a".into(),
            scope: "repository:x/y:pull,push".into(),
        };
        assert_eq!(challenge, Some(want));
        for other in [
            "Basic realm=\"x\"",
            "Bearer ",
            "Bearer realm=x",
            "Bearer service=\"a\"",
        ] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
        assert_eq!(encoded("repository:x/y:pull"), "repository%3Ax%2Fy%3Apull");
    }
}
