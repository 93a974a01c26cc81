//! Where a service is: regions, ARNs, and the addresses that are made of them or said instead.

use std::fmt;
use std::str::FromStr;

use crate::environment::Environment;
use crate::error::shown;
use crate::http::{HttpError, Url};
use crate::profile::Profile;

/// One of the services that are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Load balancers of the second generation and their targets.
    Balancers,
    /// Instances and security groups.
    Ec2,
}

impl Service {
    /// The name in signatures, host names and IAM policies.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Balancers => "elasticloadbalancing",
            Service::Ec2 => "ec2",
        }
    }

    /// The version of the query API that is spoken.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Service::Balancers => "2015-12-01",
            Service::Ec2 => "2016-11-15",
        }
    }

    /// As AWS's tools call it in `AWS_ENDPOINT_URL_…`, and in lower case in the `services` sections of the configuration.
    fn id(self) -> &'static str {
        match self {
            Service::Balancers => "ELASTIC_LOAD_BALANCING_V2",
            Service::Ec2 => "EC2",
        }
    }
}

/// A region such as `eu-central-1`. It becomes part of host names, so nothing else than lower-case letters, digits and dashes is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(String);

impl FromStr for Region {
    type Err = RegionError;

    fn from_str(text: &str) -> Result<Region, RegionError> {
        let fits = text.len() <= 32
            && text.split('-').count() >= 3
            && text.split('-').all(|part| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            });
        match fits {
            true => Ok(Region(text.to_owned())),
            false => Err(RegionError::Invalid {
                text: shown(text, 100),
            }),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Region {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What host names of the region's partition end in. `None` for partitions that only their own people can reach.
    fn suffix(&self) -> Option<&'static str> {
        match self.0.split('-').next()? {
            "cn" => Some("amazonaws.com.cn"),
            "eusc" => Some("amazonaws.eu"),
            "us" if self.0.starts_with("us-iso") => None,
            _ => Some("amazonaws.com"),
        }
    }

    /// Where a service of this region is: as somebody said, or as AWS names it.
    ///
    /// The order is that of AWS's tools: the variable of the service, the variable of all, the profile's section of the service, the profile.
    pub(crate) fn endpoint(
        &self,
        service: Service,
        environment: &Environment,
        profile: Option<&Profile<'_>>,
    ) -> Result<Url, RegionError> {
        if !environment.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            let of_service = format!("AWS_ENDPOINT_URL_{}", service.id());
            let section_key = format!("{}.endpoint_url", service.id().to_ascii_lowercase());
            let said = [of_service.as_str(), "AWS_ENDPOINT_URL"]
                .into_iter()
                .find_map(|name| Some((name.to_owned(), environment.get(name)?.to_owned())))
                .or_else(|| {
                    let profile = profile?;
                    let url = profile
                        .services(&section_key)
                        .or_else(|| profile.get("endpoint_url"))?;
                    Some((format!("endpoint_url of {profile}"), url.to_owned()))
                });
            if let Some((place, url)) = said {
                let url = Url::parse(&url).map_err(|source| RegionError::Endpoint {
                    place: place.clone(),
                    source,
                })?;
                return match url.path.as_str() {
                    "/" => Ok(url),
                    _ => Err(RegionError::EndpointPath {
                        place,
                        url: url.to_string(),
                    }),
                };
            }
        }
        for variable in ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"] {
            if environment.is_true(variable) {
                return Err(RegionError::Kind {
                    variable,
                    service: service.id(),
                });
            }
        }
        let suffix = self.suffix().ok_or_else(|| RegionError::Partition {
            region: self.0.clone(),
            service: service.id(),
        })?;
        let host = format!("https://{}.{}.{suffix}", service.name(), self.0);
        Url::parse(&host).map_err(|source| RegionError::Endpoint {
            place: format!("region {}", self.0),
            source,
        })
    }
}

/// Why it is not known where a service is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Nobody says which region.
    #[error(
        "no AWS region found (looked at {looked})\nhint: set AWS_REGION, or `region` in the profile: `aws configure set region eu-central-1`"
    )]
    None {
        /// Where it was looked for, and what was there.
        looked: String,
    },
    /// A region that is none.
    #[error(
        "`{text}` is not a region\nhint: regions are written like eu-central-1; look at AWS_REGION and at `region` in the profile"
    )]
    Invalid {
        /// What was said, shortened.
        text: String,
    },
    /// An endpoint that is no address.
    #[error("the endpoint from {place} cannot be used")]
    Endpoint {
        /// Who says it.
        place: String,
        /// Why not.
        #[source]
        source: HttpError,
    },
    /// An endpoint with a path.
    #[error("the endpoint from {place}, {url}, has a path; the query API has none")]
    EndpointPath {
        /// Who says it.
        place: String,
        /// The address.
        url: String,
    },
    /// A kind of endpoint that is not made of the region's name here.
    #[error(
        "{variable} is set, and such endpoints are not known here\nhint: name the endpoint itself with AWS_ENDPOINT_URL_{service}"
    )]
    Kind {
        /// The variable.
        variable: &'static str,
        /// The service, as in the variable to set.
        service: &'static str,
    },
    /// A partition whose names are not known here.
    #[error(
        "region {region} is of a partition whose host names are not known here\nhint: name the endpoint itself with AWS_ENDPOINT_URL_{service}"
    )]
    Partition {
        /// The region.
        region: String,
        /// The service, as in the variable to set.
        service: &'static str,
    },
}

/// AWS's name for a thing: `arn:PARTITION:SERVICE:REGION:ACCOUNT:THING`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arn {
    text: String,
    region: Region,
}

impl FromStr for Arn {
    type Err = String;

    fn from_str(text: &str) -> Result<Arn, String> {
        let wrong = || {
            format!(
                "`{}` is not an ARN of something in a region",
                shown(text, 200)
            )
        };
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let [arn, partition, service, region, account, thing] = parts[..] else {
            return Err(wrong());
        };
        let plain = text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic());
        let account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        if arn != "arn"
            || !partition.starts_with("aws")
            || service.is_empty()
            || thing.is_empty()
            || !account
            || !plain
        {
            return Err(wrong());
        }
        Ok(Arn {
            text: text.to_owned(),
            region: region.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Arn {
    /// The region it is in: that of the client that asks for it.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(
        region: &str,
        service: Service,
        variables: &[(&str, &str)],
    ) -> Result<String, RegionError> {
        let environment = Environment::of(variables.iter().copied(), None);
        let region: Region = region.parse()?;
        let url = region.endpoint(service, &environment, None)?;
        Ok(url.to_string())
    }

    #[test]
    fn services_are_where_aws_names_them() {
        for (region, service, expected) in [
            (
                "eu-central-1",
                Service::Ec2,
                "https://ec2.eu-central-1.amazonaws.com",
            ),
            (
                "us-gov-west-1",
                Service::Balancers,
                "https://elasticloadbalancing.us-gov-west-1.amazonaws.com",
            ),
            (
                "cn-north-1",
                Service::Ec2,
                "https://ec2.cn-north-1.amazonaws.com.cn",
            ),
            (
                "eusc-de-east-1",
                Service::Ec2,
                "https://ec2.eusc-de-east-1.amazonaws.eu",
            ),
        ] {
            assert_eq!(endpoint(region, service, &[]).unwrap(), expected);
        }
        let err = endpoint("us-iso-east-1", Service::Ec2, &[]).unwrap_err();
        assert!(err.to_string().contains("AWS_ENDPOINT_URL_EC2"), "{err}");
        for text in [
            "",
            "eu",
            "eu-central",
            "EU-CENTRAL-1",
            "eu-central-1.evil.example",
            "eu--1",
            "a-b-c/",
        ] {
            assert!(text.parse::<Region>().is_err(), "{text}");
        }
    }

    #[test]
    fn somebody_can_say_where_they_are_instead() {
        let both = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            (
                "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2",
                "http://127.0.0.1:2",
            ),
        ];
        let of = |service, variables: &[(&str, &str)]| endpoint("eu-central-1", service, variables);
        assert_eq!(of(Service::Ec2, &both).unwrap(), "http://127.0.0.1:1");
        assert_eq!(of(Service::Balancers, &both).unwrap(), "http://127.0.0.1:2");
        let ignored = [both[0], ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(
            of(Service::Ec2, &ignored).unwrap(),
            "https://ec2.eu-central-1.amazonaws.com"
        );
        let path = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1/x")];
        assert!(matches!(
            of(Service::Ec2, &path),
            Err(RegionError::EndpointPath { .. })
        ));
        let none = [("AWS_ENDPOINT_URL", "somewhere")];
        assert!(matches!(
            of(Service::Ec2, &none),
            Err(RegionError::Endpoint { .. })
        ));
        let fips = [("AWS_USE_FIPS_ENDPOINT", "true")];
        assert!(matches!(
            of(Service::Ec2, &fips),
            Err(RegionError::Kind { .. })
        ));
    }

    #[test]
    fn an_arn_tells_its_region() {
        let text = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/demo-api/0123456789abcdef";
        let arn: Arn = text.parse().unwrap();
        assert_eq!(
            (arn.region().as_str(), arn.as_str()),
            ("eu-central-1", text)
        );
        for text in [
            "",
            "targetgroup/demo",
            "arn:aws:iam::123456789012:role/x",
            "arn:aws:ec2:eu-central-1:1:x",
            "arn:aws:ec2:eu-central-1:123456789012:",
            "arn:aws:ec2:eu-central-1:123456789012:a b",
            "arn:evil:ec2:eu-central-1:123456789012:a",
        ] {
            assert!(text.parse::<Arn>().is_err(), "{text}");
        }
    }
}
