package security

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"regexp"
	"strings"
)

// PrincipalRules make a principal of the subject of a certificate, as Kafka's
// ssl.principal.mapping.rules do. The zero value takes the whole subject.
type PrincipalRules struct {
	rules []principalRule
}

// A principalRule is DEFAULT, if it has no pattern, or RULE:pattern/replacement/[LU].
type principalRule struct {
	pattern     *regexp.Regexp
	replacement string
	fold        string // L, U or empty
}

// ruleText splits rules, which are separated by commas, where patterns may have commas.
var ruleText = regexp.MustCompile(`^\s*(?:(DEFAULT)|RULE:((?:[^/\\]|\\.)*)/((?:[^/\\]|\\.)*)/([LU]?))\s*(?:,|$)`)

// replaced finds $1 in a replacement, which is ${1} for Go.
var replaced = regexp.MustCompile(`\$(\d)`)

// ParsePrincipalRules reads rules.
func ParsePrincipalRules(text string) (PrincipalRules, error) {
	var out PrincipalRules
	for rest := strings.TrimSpace(text); rest != ""; {
		m := ruleText.FindStringSubmatch(rest)
		if m == nil {
			return out, fmt.Errorf("--tls-principal-rules: %q: want DEFAULT or RULE:PATTERN/REPLACEMENT/ with an L or U behind it, separated by commas", rest)
		}
		rest = strings.TrimSpace(rest[len(m[0]):])
		if m[1] != "" {
			out.rules = append(out.rules, principalRule{})
			continue
		}
		pattern, err := regexp.Compile("^(?:" + m[2] + ")$")
		if err != nil {
			return out, fmt.Errorf("--tls-principal-rules: %w", err)
		}
		out.rules = append(out.rules, principalRule{pattern, replaced.ReplaceAllString(m[3], `$${$1}`), m[4]})
	}
	return out, nil
}

// Principal returns whose a certificate is. The first rule that fits wins.
func (r PrincipalRules) Principal(c *x509.Certificate) (Principal, error) {
	p, err := r.principal(c)
	if err == nil && Reserved(p.Name) {
		return Principal{}, fmt.Errorf("the certificate %s names %q, which is braid's own", c.SerialNumber, p.Name)
	}
	return p, err
}

func (r PrincipalRules) principal(c *x509.Certificate) (Principal, error) {
	subject, err := Subject(c)
	if err != nil {
		return Principal{}, err
	}
	if subject == "" {
		return Principal{}, fmt.Errorf("the certificate %s has no subject", c.SerialNumber)
	}
	if len(r.rules) == 0 {
		return User(subject), nil
	}
	for _, rule := range r.rules {
		if rule.pattern == nil {
			return User(subject), nil
		}
		if !rule.pattern.MatchString(subject) {
			continue
		}
		name := rule.pattern.ReplaceAllString(subject, rule.replacement)
		switch rule.fold {
		case "L":
			name = strings.ToLower(name)
		case "U":
			name = strings.ToUpper(name)
		}
		if name != "" {
			return User(name), nil
		}
	}
	return Principal{}, fmt.Errorf("%w: %s", errNoRule, subject)
}

// Subject is the distinguished name of a certificate as Java has it (RFC 2253), with
// its parts in the order of the certificate, last first.
func Subject(c *x509.Certificate) (string, error) {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(c.RawSubject, &name); err != nil || len(rest) > 0 {
		return "", fmt.Errorf("the certificate %s has a subject that cannot be read", c.SerialNumber)
	}
	return name.String(), nil
}
