# proxymatic from the package, with its configuration from Hiera (data/common.yaml beside this file is an example).
# Needs the module puppetlabs-stdlib, 9 or newer, and the package in a repository of yours. $ensure is proxymatic's version.
class profile::proxymatic (
  Hash   $config,
  String $ensure = 'installed',
) {
  # Without recommended packages: pen's GeoIP database would cost each pen 10 MB. An upgrade of HAProxy restarts it, so it is
  # none of this.
  package { ['haproxy', 'pen']:
    ensure          => installed,
    install_options => ['--no-install-recommends'],
  }

  package { 'proxymatic':
    ensure          => $ensure,
    install_options => ['--no-install-recommends'],
  }

  # The values are in Puppet's order of the hash, so the file changes only when they do. A file that is not valid never gets
  # its place.
  file { '/etc/proxymatic/proxymatic.yaml':
    ensure       => file,
    owner        => 'root',
    group        => 'root',
    mode         => '0640',
    show_diff    => false, # it may hold passwords
    content      => stdlib::to_yaml($config),
    validate_cmd => '/usr/bin/proxymatic validate --config %',
    require      => Package['proxymatic', 'haproxy', 'pen'],
  }

  # A reload touches no traffic. What it cannot change (run-dir, state-dir, haproxy, haproxy-start) is not taken, and named in the
  # log: then `systemctl restart proxymatic`.
  service { 'proxymatic':
    ensure    => running,
    enable    => true,
    restart   => '/usr/bin/systemctl reload proxymatic',
    subscribe => File['/etc/proxymatic/proxymatic.yaml'],
  }
}
