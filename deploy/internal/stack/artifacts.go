package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tagstore/tagstore/cloudformation"
	"github.com/tagstore/tagstore/core/config"
)

// artifactsText returns the text of the template that comes first.
func artifactsText() (string, error) {
	text, err := cloudformation.Templates.ReadFile(artifactsTemplate)
	return string(text), err
}

// set is the templates of a stack as they are uploaded: below a folder that is
// named by what is in it, so that one that was deployed stays what it was.
type set struct {
	folder string
	files  map[string][]byte
}

var nestedURL = regexp.MustCompile(`(?m)^(\s+TemplateURL:\s+)([a-z]+\.yaml)$`)

// pack makes the set of this version's templates; base is the URL of the bucket.
func pack(base string) (*set, error) {
	names, err := fs.Glob(cloudformation.Templates, "*.yaml")
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	s := &set{files: map[string][]byte{}}
	for _, name := range names {
		if name == artifactsTemplate {
			continue
		}
		text, err := cloudformation.Templates.ReadFile(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		s.files[name] = text
	}
	s.folder = "templates/" + hex.EncodeToString(sum.Sum(nil))[:32]
	missing := ""
	s.files[mainTemplate] = nestedURL.ReplaceAllFunc(s.files[mainTemplate], func(line []byte) []byte {
		m := nestedURL.FindSubmatch(line)
		if _, ok := s.files[string(m[2])]; !ok {
			missing = string(m[2])
		}
		return fmt.Appendf(nil, "%s%s/%s/%s", m[1], base, s.folder, m[2])
	})
	if missing != "" {
		return nil, config.Errorf(config.Internal, "main.yaml nests %s, which is not there", missing)
	}
	return s, nil
}

// bucketURL is where CloudFormation finds a bucket's objects.
func (a *Account) bucketURL(bucket string) string {
	suffix := "amazonaws.com"
	if strings.HasPrefix(a.Region, "cn-") {
		suffix += ".cn"
	}
	return fmt.Sprintf("https://%s.s3.%s.%s", bucket, a.Region, suffix)
}

// uploadTemplates uploads what is not there yet and returns the URL of main.yaml.
func (a *Account) uploadTemplates(ctx context.Context, bucket string) (string, error) {
	s, err := pack(a.bucketURL(bucket))
	if err != nil {
		return "", err
	}
	n := 0
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		key := s.folder + "/" + name
		_, err := a.objects.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &bucket, Key: &key, Body: bytes.NewReader(s.files[name]), ContentType: aws.String("text/yaml"), IfNoneMatch: aws.String("*"),
		})
		switch {
		case is(err, "PreconditionFailed"):
		case err != nil:
			return "", explain(err)
		default:
			n++
		}
	}
	a.say("templates: %d of %d uploaded to s3://%s/%s", n, len(s.files), bucket, s.folder)
	return a.bucketURL(bucket) + "/" + s.folder + "/" + mainTemplate, nil
}

// maxPackage is what Lambda takes of a package.
const maxPackage = 50 << 20

// uploadPackage uploads the function's package unless it is there, and returns the
// parameters that name it. Its key has its digest, so that the same file is the
// same version of the same object whenever it is deployed.
func (a *Account) uploadPackage(ctx context.Context, bucket, file string) (map[string]string, error) {
	text, err := readPackage(file)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	key := "packages/refresh-" + hex.EncodeToString(sum[:])[:32] + ".zip"
	version, err := a.versionOf(ctx, bucket, key)
	if err != nil {
		return nil, err
	}
	if version == "" {
		put, err := a.objects.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &bucket, Key: &key, Body: bytes.NewReader(text), ContentType: aws.String("application/zip"), IfNoneMatch: aws.String("*"),
			ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
		})
		switch {
		case is(err, "PreconditionFailed"): // somebody else was faster
			if version, err = a.versionOf(ctx, bucket, key); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, explain(err)
		default:
			version = aws.ToString(put.VersionId)
		}
		a.say("package: uploaded to s3://%s/%s", bucket, key)
	} else {
		a.say("package: s3://%s/%s is there already", bucket, key)
	}
	if version == "" || version == "null" {
		return nil, config.Errorf(config.FailedPrecondition, "the bucket %s keeps no versions", bucket).
			WithHint("turn its versioning on, as cloudformation/artifacts.yaml has it, then run the same again")
	}
	return map[string]string{"CodeBucket": bucket, "CodeKey": key, "CodeVersion": version}, nil
}

// versionOf returns the version of an object, "" if there is none.
func (a *Account) versionOf(ctx context.Context, bucket, key string) (string, error) {
	head, err := a.objects.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
	if is(err, "NotFound", "NoSuchKey") {
		return "", nil
	}
	if err != nil {
		return "", explain(err)
	}
	return aws.ToString(head.VersionId), nil
}

func readPackage(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, config.Errorf(config.InvalidArgument, "the function's package can not be read: %w", err).
			WithHint("make it with `make lambda`, or say with --set Package=FILE where it is")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPackage+1))
	switch {
	case err != nil:
		return nil, config.Errorf(config.InvalidArgument, "the function's package can not be read: %w", err)
	case len(text) > maxPackage:
		return nil, config.Errorf(config.InvalidArgument, "%s is larger than the 50 MB that Lambda takes", file)
	case !bytes.HasPrefix(text, []byte("PK\x03\x04")):
		return nil, config.Errorf(config.InvalidArgument, "%s is no zip file", file).WithHint("make it with `make lambda`")
	}
	return text, nil
}

// Release is what was deployed once. Releases are what a rollback goes back to.
type Release struct {
	Number     int               `json:"number"`
	At         time.Time         `json:"at"`
	By         string            `json:"by"`
	Program    string            `json:"program"` // the version of this program
	Template   string            `json:"template"`
	Parameters map[string]string `json:"parameters"`
	// BackTo is the release that a rollback went back to, 0 for a deployment.
	BackTo int `json:"back_to,omitempty"`
}

// same reports whether two releases are the same stack.
func (r *Release) same(other *Release) bool {
	return r.Template == other.Template && maps.Equal(r.Parameters, other.Parameters)
}

// releasesFolder is where the releases of a stack are.
func releasesFolder(stack string) string { return "releases/" + stack + "/" }

// releases returns those of a stack, the first one first.
func (a *Account) releases(ctx context.Context, bucket, stack string) ([]*Release, error) {
	var all []*Release
	pages := s3.NewListObjectsV2Paginator(a.objects, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: aws.String(releasesFolder(stack))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, o := range page.Contents {
			r, err := a.release(ctx, bucket, aws.ToString(o.Key))
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(x, y *Release) int { return x.Number - y.Number })
	return all, nil
}

func (a *Account) release(ctx context.Context, bucket, key string) (*Release, error) {
	got, err := a.objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return nil, explain(err)
	}
	defer got.Body.Close()
	var r Release
	if err := json.NewDecoder(io.LimitReader(got.Body, 1<<20)).Decode(&r); err != nil || r.Number <= 0 || r.Template == "" {
		return nil, config.Errorf(config.DataLoss, "s3://%s/%s is no release", bucket, key).
			WithHint("bring back its version before the last one, or remove it").WithCause(err)
	}
	return &r, nil
}

// record writes down what was deployed, unless the last release is the same. A run
// that was interrupted before it is so mended by the next one.
func (a *Account) record(ctx context.Context, bucket, stack string, r *Release) error {
	all, err := a.releases(ctx, bucket, stack)
	if err != nil {
		return err
	}
	r.Number = 1
	if len(all) > 0 {
		last := all[len(all)-1]
		if last.same(r) {
			a.say("%s: this is release %d, as before", stack, last.Number)
			return nil
		}
		r.Number = last.Number + 1
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	key := path.Join(releasesFolder(stack), fmt.Sprintf("%05d.json", r.Number))
	_, err = a.objects.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, Body: bytes.NewReader(text), ContentType: aws.String("application/json"), IfNoneMatch: aws.String("*"),
	})
	if is(err, "PreconditionFailed") {
		// It may be this one, written by a call whose answer was lost.
		if there, err := a.release(ctx, bucket, key); err == nil && there.same(r) {
			a.say("%s: recorded as release %d", stack, r.Number)
			return nil
		}
		return config.Errorf(config.Conflict, "somebody else has deployed %s at the same time, as release %d", stack, r.Number).
			WithHint("run the same again: it records what is there then")
	}
	if err != nil {
		return explain(err)
	}
	a.say("%s: recorded as release %d", stack, r.Number)
	return nil
}

// bucketOf returns the artifacts' bucket, "" if it or its stack is not there.
func (a *Account) bucketOf(ctx context.Context, artifacts string) (string, error) {
	s, err := a.describe(ctx, artifacts)
	if err != nil || s == nil {
		return "", err
	}
	return a.resource(ctx, artifacts, "ArtifactsBucket")
}

// emptyBucket removes every version of every object below a prefix.
func (a *Account) emptyBucket(ctx context.Context, bucket, prefix string) (int, error) {
	n := 0
	in := &s3.ListObjectVersionsInput{Bucket: &bucket, Prefix: &prefix}
	for {
		page, err := a.objects.ListObjectVersions(ctx, in)
		if err != nil {
			return n, explain(err)
		}
		var ids []types.ObjectIdentifier
		for _, v := range page.Versions {
			ids = append(ids, types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
		}
		for _, m := range page.DeleteMarkers {
			ids = append(ids, types.ObjectIdentifier{Key: m.Key, VersionId: m.VersionId})
		}
		if len(ids) > 0 {
			gone, err := a.objects.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
			if err != nil {
				return n, explain(err)
			}
			if len(gone.Errors) > 0 {
				e := gone.Errors[0]
				return n, config.Errorf(config.FailedPrecondition, "%d objects of %s can not be removed, the first with %s: %s", len(gone.Errors), bucket, aws.ToString(e.Code), aws.ToString(e.Message)).
					WithHint("look whether the bucket has an object lock or a policy that forbids it, then run the same again")
			}
			n += len(ids)
		}
		if !aws.ToBool(page.IsTruncated) {
			return n, nil
		}
		in.KeyMarker, in.VersionIdMarker = page.NextKeyMarker, page.NextVersionIdMarker
	}
}
