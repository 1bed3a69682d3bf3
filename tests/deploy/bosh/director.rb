# A stand-in for the BOSH director, as far as our jobs go: applies ops files to a manifest, puts
# in its variables, and renders each job of our release as the director would for one instance.
#
#     ruby director.rb RELEASE MANIFEST VARIABLES.json OUT OPS...
#
# Says on stdout, as JSON, the manifest that came of it, and what bpm.yml has of each job. Like
# the director it shows a template no property but those of the job's spec; unlike it, asking for
# another one is an error even where that would be silent (`if_p`).
require 'erb'
require 'fileutils'
require 'json'
require 'ostruct'
require 'yaml'

def fail_with(what)
  warn what
  exit 1
end

# One operation of an ops file: https://bosh.io/docs/cli-ops-files.
def apply(document, operation)
  keys = operation.fetch('path').delete_prefix('/').split('/')
  optional = false
  place = document
  keys.each_with_index do |key, at|
    optional ||= key.end_with?('?')
    key = key.delete_suffix('?')
    last = at == keys.size - 1
    wrong = "#{operation['path']}: nothing is at #{key}"
    case place
    when Array
      if key == '-'
        fail_with("#{operation['path']}: - is for the end") unless last
        return place.push(operation.fetch('value'))
      end
      name, value = key.split('=', 2)
      found = place.each_index.select { |index| place[index][name] == value }
      fail_with("#{wrong}, but #{found.size}") unless found.size == 1
      key = found.first
    when Hash
      fail_with(wrong) unless place.key?(key) || optional
    else
      fail_with(wrong)
    end
    if last
      case operation.fetch('type')
      when 'replace' then place[key] = operation.fetch('value')
      when 'remove' then place.is_a?(Array) ? place.delete_at(key) : place.delete(key)
      else fail_with("no such operation: #{operation['type']}")
      end
    else
      place[key] ||= {} if optional
      place = place[key]
    end
  end
end

# `((name.part))` by what the variables have there.
def interpolate(value, variables)
  case value
  when Hash then value.transform_values { |inner| interpolate(inner, variables) }
  when Array then value.map { |inner| interpolate(inner, variables) }
  when /\A\(\((.+)\)\)\z/
    $1.split('.').inject(variables) { |tree, key| tree.fetch(key) { fail_with("no variable #{value}") } }
  when String
    value.gsub(/\(\((.+?)\)\)/) { variables.fetch($1) { fail_with("no variable #{$1}") } }
  else value
  end
end

def at_path(tree, name)
  name.split('.').inject(tree) { |at, key| at.is_a?(Hash) ? at[key] : nil }
end

# What a template may ask for.
class Context
  # After an `if_p` or `if_link` that held, and one that did not.
  Held = Struct.new(:context) do
    def else; end

    def else_if_p(*) = self
    def else_if_link(*) = self
  end
  Failed = Struct.new(:context) do
    def else = yield
    def else_if_p(*names, &block) = context.if_p(*names, &block)
    def else_if_link(name, &block) = context.if_link(name, &block)
  end

  attr_reader :spec

  def initialize(declared, properties, links, spec)
    @declared, @properties, @links, @spec = declared, properties, links, spec
  end

  def p(name, *default)
    value = look(name)
    return value unless value.nil?
    fail_with("no property #{name}") if default.empty?
    default.first
  end

  def if_p(*names)
    values = names.map { |name| look(name) }
    return Failed.new(self) if values.any?(&:nil?)
    yield(*values)
    Held.new(self)
  end

  def if_link(name)
    return Failed.new(self) unless @links.key?(name)
    yield @links[name]
    Held.new(self)
  end

  def link(name) = @links.fetch(name) { fail_with("no link #{name}") }
  def scope = binding

  private

  def look(name)
    fail_with("the spec does not have the property #{name}") unless @declared.key?(name)
    value = at_path(@properties, name)
    value.nil? ? @declared[name]['default'] : value
  end
end

# The other end of a link.
Link = Struct.new(:instances, :properties) do
  def p(name) = at_path(properties, name) || fail_with("the link has no property #{name}")
end

release, manifest, variables, out, *ops = ARGV
document = YAML.load_file(manifest)
ops.each { |file| YAML.load_file(file).each { |operation| apply(document, operation) } }
variables = JSON.parse(File.read(variables))
resolved = interpolate(document, variables)

ours = resolved['instance_groups'].flat_map { |group| group['jobs'] }
  .select { |job| job['release'] == 'loggregator-rust' }
specs = ours.to_h do |job|
  [job['name'], YAML.load_file(File.join(release, 'jobs', job['name'], 'spec'))]
end

# What each of our jobs provides, by the link's name.
links = {}
ours.each do |job|
  spec = specs[job['name']]
  (spec['provides'] || []).each do |provided|
    properties = {}
    provided['properties'].each do |name|
      fail_with("#{job['name']}: the link has an undeclared #{name}") unless spec['properties'].key?(name)
      *above, last = name.split('.')
      value = at_path(job['properties'], name)
      value = spec['properties'][name]['default'] if value.nil?
      above.inject(properties) { |tree, key| tree[key] ||= {} }[last] = value
    end
    address = OpenStruct.new(address: '127.0.0.1')
    links[provided['name']] = Link.new([address], properties)
  end
end

said = ours.to_h do |job|
  name, spec = job['name'], specs[job['name']]
  home = File.join(release, 'jobs', name)
  taken = (spec['consumes'] || []).map { |consumed| consumed['name'] }
  context = Context.new(spec['properties'], job['properties'] || {}, links.slice(*taken),
                        OpenStruct.new(ip: '127.0.0.1', id: 'an-instance', name: name, index: 0))
  files = spec['templates'].to_h { |from, to| [File.join('templates', from), to] }
  files['monit'] = 'monit'
  files.each do |from, to|
    template = ERB.new(File.read(File.join(home, from)), trim_mode: '-')
    template.filename = "#{name}/#{from}"
    target = File.join(out, name, to)
    FileUtils.mkdir_p(File.dirname(target))
    File.write(target, template.result(context.scope))
    File.chmod(to.start_with?('bin/') ? 0o750 : 0o640, target)
  end
  lost = Dir.children(File.join(home, 'templates')) - spec['templates'].keys
  fail_with("#{name}: not in the spec: #{lost.join(', ')}") unless lost.empty?
  bpm = YAML.load_file(File.join(out, name, 'config/bpm.yml'))
  [name, { bpm: bpm['processes'], properties: spec['properties'].keys, packages: spec['packages'] }]
end
puts JSON.generate(manifest: resolved, jobs: said)
