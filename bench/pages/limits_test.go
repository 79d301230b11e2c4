package pages

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the values in docs/limits.md anew")

// source is what the files of one folder say: constants, and the fields of what
// DefaultLimits returns.
type source map[string]ast.Expr

// read reads the constants of a folder, its tests apart.
func read(t *testing.T, folder string) source {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	all := source{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				if d.Tok != token.CONST {
					continue
				}
				for _, s := range d.Specs {
					values := s.(*ast.ValueSpec)
					for i, name := range values.Names {
						if i < len(values.Values) {
							all[name.Name] = values.Values[i]
						}
					}
				}
			case *ast.FuncDecl:
				if d.Name.Name != "DefaultLimits" {
					continue
				}
				ast.Inspect(d, func(n ast.Node) bool {
					if kv, ok := n.(*ast.KeyValueExpr); ok {
						all["DefaultLimits."+kv.Key.(*ast.Ident).Name] = kv.Value
					}
					return true
				})
			}
		}
	}
	return all
}

// quantity is a value, and what it is of.
type quantity struct {
	value    float64
	duration bool
	bytes    bool // it is written as so many times 2^10 or 2^20
}

func (s source) eval(e ast.Expr) (quantity, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		v, err := strconv.ParseFloat(strings.ReplaceAll(e.Value, "_", ""), 64)
		return quantity{value: v}, err
	case *ast.Ident:
		inner, ok := s[e.Name]
		if !ok {
			return quantity{}, fmt.Errorf("%s is no constant here", e.Name)
		}
		return s.eval(inner)
	case *ast.SelectorExpr:
		unit, ok := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}[e.Sel.Name]
		if x, isName := e.X.(*ast.Ident); !ok || !isName || x.Name != "time" {
			return quantity{}, fmt.Errorf("%s is not known here", e.Sel.Name)
		}
		return quantity{value: float64(unit), duration: true}, nil
	case *ast.ParenExpr:
		return s.eval(e.X)
	case *ast.BinaryExpr:
		a, err := s.eval(e.X)
		if err != nil {
			return a, err
		}
		b, err := s.eval(e.Y)
		if err != nil {
			return b, err
		}
		r := quantity{duration: a.duration || b.duration, bytes: a.bytes || b.bytes}
		switch e.Op {
		case token.ADD:
			r.value = a.value + b.value
		case token.SUB:
			r.value = a.value - b.value
		case token.MUL:
			r.value = a.value * b.value
		case token.QUO:
			r.value = a.value / b.value
			if !r.duration {
				r.value = float64(int64(r.value))
			}
		case token.SHL:
			r.value = a.value * float64(int64(1)<<int64(b.value))
			r.bytes = b.value == 10 || b.value == 20 || b.value == 30 || b.value == 40
		default:
			return r, fmt.Errorf("%s is not calculated", e.Op)
		}
		return r, nil
	}
	return quantity{}, fmt.Errorf("%T is not calculated", e)
}

func (q quantity) String() string {
	switch {
	case q.duration:
		d := time.Duration(q.value)
		if d >= time.Hour && d%(24*time.Hour) == 0 && d > 24*time.Hour {
			return fmt.Sprintf("%d days", d/(24*time.Hour))
		}
		text := d.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-2]
			}
		}
		return text
	case q.bytes:
		for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
			if size := float64(int64(1) << (40 - 10*i)); q.value >= size && q.value/size*1024 == float64(int64(q.value/size*1024)) && q.value/size == float64(int64(q.value/size)) {
				return fmt.Sprintf("%d %s", int64(q.value/size), unit)
			}
		}
	}
	if q.value == float64(int64(q.value)) {
		digits := strconv.FormatInt(int64(q.value), 10)
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		return digits
	}
	return strconv.FormatFloat(q.value, 'g', -1, 64)
}

var limit = regexp.MustCompile("^\\| (.+) \\| (.+) \\| `([a-z0-9/-]+)\\.([A-Za-z.]+)` \\|\n$")

// filled returns the page with the values of the source.
func filled(t *testing.T, text string) (page string, named map[string]bool) {
	t.Helper()
	named = map[string]bool{}
	folders := map[string]source{}
	var b strings.Builder
	for line := range strings.Lines(text) {
		m := limit.FindStringSubmatch(line)
		if m == nil {
			b.WriteString(line)
			continue
		}
		if folders[m[3]] == nil {
			folders[m[3]] = read(t, m[3])
		}
		e, ok := folders[m[3]][m[4]]
		if !ok {
			t.Errorf("there is no constant %s.%s", m[3], m[4])
			continue
		}
		q, err := folders[m[3]].eval(e)
		if err != nil {
			t.Errorf("%s.%s: %v", m[3], m[4], err)
		}
		if named[m[3]+"."+m[4]] {
			t.Errorf("%s.%s stands there twice", m[3], m[4])
		}
		named[m[3]+"."+m[4]] = true
		fmt.Fprintf(&b, "| %s | %s | `%s.%s` |\n", m[1], q, m[3], m[4])
	}
	return b.String(), named
}

// The page has the values that the source has.
func TestLimits(t *testing.T) {
	text := page(t, "limits.md")
	want, named := filled(t, text)
	if len(named) < 120 {
		t.Errorf("%d limits are named", len(named))
	}
	if want == text {
		return
	}
	if !*update {
		have, now := strings.Split(text, "\n"), strings.Split(want, "\n")
		for i := range min(len(have), len(now)) {
			if have[i] != now[i] {
				t.Errorf("the page says\n%s\nand the source\n%s", have[i], now[i])
			}
		}
		t.Fatal("go test ./bench/pages -update writes the values anew")
	}
	if err := os.WriteFile(filepath.Join(root, "docs", "limits.md"), []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
}

// unmet are the limits that no user, operator or author of a plugin meets: bounds of
// what the code takes from itself, of texts that it writes, and of formats.
var unmet = strings.Fields(`
	core/auth.maxGeneration core/auth.maxNumericDate
	core/auth/machinetoken.defaultLife
	core/cache.maxFlights core/cache.maxTold
	core/client.defaultPatience core/client.maxFeeds core/client.maxRefreshTargets core/client.maxRequestID
	core/fanout.maxNamed
	core/internal/exchange.DefaultIdleTime core/internal/exchange.maxStatus
	core/internal/handshake.MaxFrame core/internal/handshake.MaxResult
	core/internal/nearest.maxEdits
	core/internal/wire.maxFeature core/internal/wire.maxFeatures
	core/options.maxDepth
	core/pluginhost.maxDoublings core/pluginhost.maxHandshake core/pluginhost.maxHeaders core/pluginhost.maxImageName core/pluginhost.maxShebang
	core/pluginmain.maxStack
	core/store.maxBackendToken core/store.maxGaps core/store.maxMargin core/store.maxPages core/store.maxPause core/store.maxSeen
	core/storemap.maxQuoted
	internal/cloudmap.maxBackoff
	plugins/dynamodb/dynamodbbackend.maxFloors plugins/dynamodb/dynamodbbackend.maxHints plugins/dynamodb/dynamodbbackend.maxMagnitude plugins/dynamodb/dynamodbbackend.maxName plugins/dynamodb/dynamodbbackend.maxRaw plugins/dynamodb/dynamodbbackend.maxReadDepth plugins/dynamodb/dynamodbbackend.minMagnitude
	plugins/dynamodb/internal/daxread.defaultRefresh plugins/dynamodb/internal/daxread.maxDepth plugins/dynamodb/internal/daxread.maxElements plugins/dynamodb/internal/daxread.maxExponent plugins/dynamodb/internal/daxread.maxInside plugins/dynamodb/internal/daxread.maxLost plugins/dynamodb/internal/daxread.maxNumberText plugins/dynamodb/internal/daxread.maxOther plugins/dynamodb/internal/daxread.maxRefused plugins/dynamodb/internal/daxread.maxString plugins/dynamodb/internal/daxread.maxStuck plugins/dynamodb/internal/daxread.maxTimeouts
	plugins/internal/awsconn.maxChainedDuration plugins/internal/awsconn.maxDelay plugins/internal/awsconn.maxIdleConns plugins/internal/awsconn.maxRetryAfter plugins/internal/awsconn.minTimeout
	plugins/local/localbackend.maxDepth plugins/local/localbackend.maxPageSize plugins/local/localbackend.minPageSize
	plugins/s3/s3backend.maxListing plugins/s3/s3backend.maxMetadata
	plugins/secretsmanager/secretsbackend.maxNumber plugins/secretsmanager/secretsbackend.maxVersionPages
	plugins/ssm/ssmbackend.maxCalls plugins/ssm/ssmbackend.maxDescription plugins/ssm/ssmbackend.maxOutlines
	refresh-lambda/internal/announce.maxErrors refresh-lambda/internal/announce.maxLogged
	services/config/internal/app.maxRefreshes
	services/config/internal/app.maxTenantRate
	services/config/internal/server.maxCopied services/config/internal/server.maxFrame services/config/internal/server.maxFreshness services/config/internal/server.maxTogether
	services/order/internal/orders.maxExponent
	services/order/internal/orders/dynamostore.maxAttempts services/order/internal/orders/dynamostore.maxQuery
`)

// Every limit in the source is on the page, or among those that nobody meets.
func TestNoLimitIsLeftOut(t *testing.T) {
	_, named := filled(t, page(t, "limits.md"))
	isLimit := regexp.MustCompile(`^(max|Max|min|Min|default|Default)[A-Z]`)
	there := map[string]bool{}
	for _, top := range []string{"core", "services", "refresh-lambda", "plugins", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			if name := d.Name(); name == "testdata" || name == "gen" || name == "drivertest" || name == "devissuer" || name == "iamtest" || name == "daxtest" {
				return filepath.SkipDir
			}
			folder, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			for name := range read(t, folder) {
				if isLimit.MatchString(name) {
					there[folder+"."+name] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		name = strings.ReplaceAll(name, "DefaultLimits.DefaultLimits", "DefaultLimits")
		if !named[name] && !slices.Contains(unmet, name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for _, name := range unmet {
		if !there[name] || named[name] {
			t.Errorf("%s is not there, or on the page", name)
		}
	}
}
